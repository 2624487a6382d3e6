"""The names of channels: the application's own, and those that belong to a user, to events and to the server."""

from __future__ import annotations

from tidewire.errors import PermissionDenied
from tidewire.options import Limits, check_channel, is_reserved

__all__ = ("CONTROL", "NODES", "PIPELINES", "events", "is_events", "is_internal", "open_channel", "personal")

#: The channel on which nodes tell each other what is not a publication of the application.
CONTROL = "$control"
#: The channel whose members are the nodes.
NODES = "$nodes"
#: The channels of long jobs begin with this (pipelines.names).
PIPELINES = "$pipeline"
_PERSONAL = "$user:"
_EVENTS = "$events:"


def personal(user: str) -> str:
    """Return the channel that every connection of a user follows."""
    return _PERSONAL + user


def events(channel: str) -> str:
    """Return the channel that carries who joins and leaves another one, apart from its publications."""
    return _EVENTS + channel


def is_events(channel: str) -> bool:
    """Say whether a channel carries joins and leaves; each connection is a member of its own there."""
    return channel.startswith(_EVENTS)


def is_internal(channel: str) -> bool:
    """Say whether a channel is the server's own, whatever the application allows: no client and no caller names it."""
    return channel in (CONTROL, NODES) or channel.startswith((_PERSONAL, _EVENTS, PIPELINES))


def open_channel(channel: str, limits: Limits) -> str:
    """Return a channel name that clients and applications may use; raises BadRequest, PermissionDenied."""
    name = check_channel(channel, limits)
    if is_reserved(name):
        raise PermissionDenied(f"channel {name!r} belongs to the server; names that begin with $ are reserved")
    return name
