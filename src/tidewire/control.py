"""What nodes tell each other beside publications, and the names of the channels that are theirs."""

from __future__ import annotations

import msgspec

from tidewire.errors import Disconnect, PermissionDenied
from tidewire.options import Limits, check_channel, is_reserved

__all__ = (
    "CONTROL",
    "NODES",
    "RUN_EVENTS",
    "RUN_LISTS",
    "RUN_LOGS",
    "Control",
    "events",
    "is_events",
    "is_internal",
    "open_channel",
    "personal",
)

#: The channel on which nodes tell each other what is not a publication of the application.
CONTROL = "$control"
#: The channel whose members are the nodes.
NODES = "$nodes"
#: The events of each run of a pipeline, and the newest text of its logs.
RUN_EVENTS, RUN_LOGS = "$pipeline:", "$pipeline-log:"
#: What changes in the list of runs that a user sees.
RUN_LISTS = "$pipeline-list:"
_PERSONAL = "$user:"
_EVENTS = "$events:"


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one node asks of all: to disconnect a user, or to push the publication's data to everybody.

    Another `verb` is done by the layer that taught it to its nodes (node.Node.verbs); the data says the rest.
    """

    user: str = ""
    disconnect: Disconnect | None = None
    everybody: bool = False
    verb: str = ""


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
    return channel in (CONTROL, NODES) or channel.startswith((_PERSONAL, _EVENTS, RUN_EVENTS, RUN_LISTS, RUN_LOGS))


def open_channel(channel: str, limits: Limits) -> str:
    """Return a channel name that clients and applications may use; raises BadRequest, PermissionDenied."""
    name = check_channel(channel, limits)
    if is_reserved(name):
        raise PermissionDenied(f"channel {name!r} belongs to the server; names that begin with $ are reserved")
    return name
