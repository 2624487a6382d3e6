"""The errors of pipelines, each with a code for programs and its HTTP status."""

from __future__ import annotations

from tidewire.errors import TidewireError

__all__ = ("BadStart", "Forbidden", "NotFound", "NotNow", "PipelineError", "QueueFull", "StepFailed", "TooBig")


class PipelineError(TidewireError):
    """The base of all errors of pipelines except ConfigurationError (a bad definition) and StoreUnavailable."""

    code = "failed"
    status = 500


class BadStart(PipelineError):
    """Raised for a sample name or an input that cannot be used."""

    code = "bad_request"
    status = 400


class Forbidden(PipelineError):
    """Raised for a key that is not this run's."""

    code = "permission_denied"
    status = 403


class NotFound(PipelineError):
    """Raised when there is no such pipeline, run, step, upload or file."""

    code = "not_found"
    status = 404


class NotNow(PipelineError):
    """Raised when the state of a run, or of this machine, does not allow a request."""

    code = "not_available"
    status = 409


class TooBig(PipelineError):
    """Raised for an upload over the limit `upload_bytes`."""

    code = "limit_exceeded"
    status = 413


class QueueFull(PipelineError):
    """Raised when a limit of the queue is reached, whose name is `limit`."""

    code = "limit_exceeded"
    status = 429

    def __init__(self, text: str, limit: str = "queue") -> None:
        super().__init__(text)
        self.limit = limit


class StepFailed(Exception):
    """Raised by a Python step to fail with a text for people; any other exception fails it with its traceback."""
