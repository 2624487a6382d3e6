"""The words for clients when the store fails: the outcome of their command, and never the place of the store."""

from __future__ import annotations

from tidewire.errors import PublishError, PublishUnconfirmed, StoreUnavailable, TemporaryFailure

__all__ = ("outage", "sentence")

_SENTENCES: dict[type[Exception], str] = {
    PublishUnconfirmed: "unconfirmed: the store did not answer in time, and may have kept this; try again",
    PublishError: "not published: the store cannot keep this now; try again",
    StoreUnavailable: "the store cannot be used now; try again",
}


def sentence(error: BaseException) -> str:
    """Return the text of an error for a client."""
    return next((text for class_, text in _SENTENCES.items() if isinstance(error, class_)), str(error))


def outage(error: BaseException) -> TemporaryFailure:
    """Return the answer to a command for which the store failed."""
    return TemporaryFailure(sentence(error))
