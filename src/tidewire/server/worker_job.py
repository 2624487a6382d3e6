"""The job that a supervisor gives a worker; a supervisor loads nothing that only workers need."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tidewire.errors import TidewireError
from tidewire.server.settings import Settings

__all__ = ("CANNOT_START", "MISCONFIGURED", "ApplicationFailed", "Job")

#: Exit codes: a configuration error, and a failure that may pass when the start is repeated.
MISCONFIGURED, CANNOT_START = 2, 3


class Job(msgspec.Struct, frozen=True):
    """The application to serve: the ready server, or the ASGI application that `app` names as `module:attribute`."""

    settings: Settings
    app: str | None = None
    #: The limits that were given in the settings, by name.
    limits: Mapping[str, float] = {}

    def encode(self) -> bytes:
        """Return the job as one line."""
        return msgspec.json.encode((self.app, self.limits, self.settings.model_dump(mode="json"))) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Job:
        """Return the job of a line."""
        app, limits, settings = msgspec.json.decode(line)
        return cls(Settings(**settings), app, limits)


class ApplicationFailed(TidewireError):
    """Raised when the application did not start, or ended by itself; one line for the person who started it."""
