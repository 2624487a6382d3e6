"""A publication out of an application's file, which the store knows by its row, too, until that is gone."""

from __future__ import annotations

from tidewire.messages import PublishRequest

__all__ = ("REMEMBERED", "MovedRequest", "keys_of")

#: Seconds for which the store remembers that a row was moved, which then is forgotten as soon as the row is gone.
REMEMBERED = 30 * 86_400.0


class MovedRequest(PublishRequest, frozen=True, gc=False):
    """A publication with a key of the application, whose time may end long before its row can be removed."""

    row: str = ""


def keys_of(request: PublishRequest) -> dict[str, float]:
    """Return the keys of a request that has any, and the seconds for which each is remembered."""
    keys = {request.key: request.key_age}
    if isinstance(request, MovedRequest):
        keys[request.row] = REMEMBERED
    return keys
