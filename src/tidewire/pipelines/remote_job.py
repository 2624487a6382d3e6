"""Reports the progress of a step by HTTP from any process, as `job.Job` does within the step."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.pipelines.errors import NotNow
from tidewire.pipelines.job import check_fraction

__all__ = ("RemoteJob",)

_HTTP_SECONDS = 10.0


class RemoteJob:
    """Reports the progress of a step by HTTP: `RemoteJob(job.url, job.run, job.key, job.step)`."""

    __slots__ = ("_key", "_step", "_url")

    def __init__(self, url: str, run: str, key: str, step: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"url {url!r} is no URL; write that of the server, as http://127.0.0.1:8000/api/pipelines"
            )
        self._url = f"{url.rstrip('/')}/runs/{run}/progress"
        self._key = key
        self._step = step

    @classmethod
    def from_environment(cls) -> RemoteJob:
        """Return the job of the step that this process belongs to. Raises ConfigurationError."""
        try:
            url, run, key, step = (os.environ[f"TIDEWIRE_{name}"] for name in ("URL", "RUN", "RUN_KEY", "STEP"))
        except KeyError as error:
            raise ConfigurationError(
                f"{error.args[0]} is not set; this is no step of a run, or its server has no URL"
            ) from None
        return cls(url, run, key, step)

    def progress(self, fraction: float, message: str = "") -> None:
        """Report progress, 0 to 1. Raises NotNow when the step is not running any more, and StoreUnavailable."""
        body = json.dumps({"step": self._step, "progress": check_fraction(fraction), "message": message[:500]})
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._url, body.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=_HTTP_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            with error:
                raise NotNow(
                    f"progress of step {self._step!r} was refused (HTTP {error.code}); is it running?"
                ) from None
        except OSError as error:
            raise StoreUnavailable(f"{self._url} does not answer ({error}); try again") from None
