"""What a Python step is given: where things are, and how to say how far it is; the same from other processes."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.pipelines.errors import BadStart, NotNow

__all__ = ("Job", "JobFacts", "RemoteJob")

_HTTP_SECONDS = 10.0


class JobFacts(msgspec.Struct, frozen=True):
    """The facts of a job, as they travel to another process."""

    run: str
    step: str
    sample: str
    threads: int
    attempt: int
    workdir: str
    stepdir: str
    results: str
    inputs: dict[str, str]
    key: str = ""
    url: str = ""


class Job:
    """One attempt at one step; `progress` and `log` may be called as often as one likes, the newest is told."""

    __slots__ = ("_facts", "_log", "_say")

    def __init__(self, facts: JobFacts, say: Callable[[float, str], None], log: Callable[[str], None]) -> None:
        self._facts = facts
        self._say = say
        self._log = log

    @property
    def run(self) -> str:
        """The name of the run."""
        return self._facts.run

    @property
    def step(self) -> str:
        """The name of the step."""
        return self._facts.step

    @property
    def sample(self) -> str:
        """The name of the sample."""
        return self._facts.sample

    @property
    def threads(self) -> int:
        """How many threads it may use."""
        return self._facts.threads

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self._facts.attempt

    @property
    def workdir(self) -> Path:
        """The folder in which the steps of this run work."""
        return Path(self._facts.workdir)

    @property
    def stepdir(self) -> Path:
        """A folder of this step alone, empty at the beginning of each attempt."""
        return Path(self._facts.stepdir)

    @property
    def results(self) -> Path:
        """The folder whose files can be downloaded."""
        return Path(self._facts.results)

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The files that the run was given, by the names of its inputs."""
        return {name: Path(path) for name, path in self._facts.inputs.items()}

    @property
    def key(self) -> str:
        """What `RemoteJob` in another process needs beside `url`, `run` and `step`; it is a secret of this run."""
        return self._facts.key

    @property
    def url(self) -> str:
        """Where the HTTP interface is, as far as the server knows it."""
        return self._facts.url

    async def progress(self, fraction: float, message: str = "") -> None:
        """Say how far this step is, 0 to 1; less than before counts as before."""
        self.progress_nowait(fraction, message)

    def progress_nowait(self, fraction: float, message: str = "") -> None:
        """Say how far this step is, from any thread."""
        self._say(check_fraction(fraction), message[:500])

    def log(self, text: str) -> None:
        """Write a line into the step's log, from any thread."""
        self._log(text)


class RemoteJob:
    """Says from any process, by HTTP, how far a step is: `RemoteJob(job.url, job.run, job.key, job.step)`."""

    __slots__ = ("_key", "_step", "_url")

    def __init__(self, url: str, run: str, key: str, step: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"url {url!r} is none; write where the server is, as http://127.0.0.1:8000/api/pipelines"
            )
        self._url = f"{url.rstrip('/')}/runs/{run}/progress"
        self._key = key
        self._step = step

    @classmethod
    def from_environment(cls) -> RemoteJob:
        """Return the job of the step whose program this process belongs to. Raises ConfigurationError."""
        try:
            url, run, key, step = (os.environ[f"TIDEWIRE_{name}"] for name in ("URL", "RUN", "RUN_KEY", "STEP"))
        except KeyError as error:
            raise ConfigurationError(
                f"{error.args[0]} is not set; this is no step of a run, or its server has no URL"
            ) from None
        return cls(url, run, key, step)

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the step is, 0 to 1. Raises NotNow when it does not run any more, StoreUnavailable."""
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


def check_fraction(fraction: float) -> float:
    """Return a fraction if it is one; raises BadStart."""
    if not 0.0 <= fraction <= 1.0:
        raise BadStart(f"progress {fraction!r} is not between 0 and 1; divide what is done by all there is to do")
    return float(fraction)
