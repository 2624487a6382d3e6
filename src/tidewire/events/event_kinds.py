"""Events of which an application is told, and the patterns of those that it wants."""

from __future__ import annotations

import msgspec

from tidewire.channels import watched
from tidewire.errors import ConfigurationError
from tidewire.rules.pattern import Pattern

__all__ = ("KINDS", "Event", "Interest", "KeptEvent", "shadow_of")

#: Each pair of events, a beginning and its end: for a user in a channel, a user, and a channel.
KINDS = {"joined": "left", "connected": "disconnected", "occupied": "vacated"}
_ALL = frozenset(KINDS) | frozenset(KINDS.values())


class KeptEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as it is kept; its place in the stream makes it an `Event`. `member` names a stranger, too.

    `missing` is "before ID" or "after ID" in an event that a reader adds because no node has published it. `again`
    marks a beginning that another node was to publish, and has published unless it was killed before; or the end of a
    dead node's last member, which may come after the beginning on another node.
    """

    kind: str
    channel: str = ""
    user: str = ""
    member: str = ""
    missing: str = ""
    again: bool = False


def shadow_of(begin: KeptEvent) -> str:
    """Return the channel whose members are those that have begun and not ended."""
    return watched(f"{begin.kind}:{begin.channel or begin.member}")


class Event(msgspec.Struct, frozen=True):
    """Something that has happened. A repetition has the same `id`; `at` is in seconds since 1970.

    `kind` is joined or left (a user's first connection in a channel, and the last), connected or disconnected (a user's
    first connection at all, and the last), occupied or vacated (a channel's first subscriber, and the last).
    """

    id: str
    kind: str
    channel: str
    user: str
    at: float


class Interest:
    """The events of a kind in the channels of a pattern. Raises ConfigurationError for an unknown kind or pattern."""

    def __init__(self, kind: str, pattern: str) -> None:
        if kind not in _ALL:
            raise ConfigurationError(f"there is no event {kind!r}; there are {', '.join(sorted(_ALL))}")
        is_of_user = kind in ("connected", "disconnected")
        if is_of_user and pattern:
            raise ConfigurationError(f"{kind!r} is of a user and has no channel; leave {pattern!r} out")
        self.kind = kind
        #: As it is written for a webhook: "connected", or "joined room:{room}".
        self.text = f"{kind} {pattern}".strip()
        self.pattern = Pattern(pattern or "{channel:path}")
        self._is_of_user = is_of_user
        #: A pattern that was written; else all channels are meant, and no parameter is given.
        self.names = self.pattern.names if pattern else ()

    def match(self, kind: str, channel: str) -> dict[str, str] | None:
        """Return the parameters of a channel in which such an event is wanted, or None."""
        if kind != self.kind:
            return None
        return {} if self._is_of_user else self.pattern.match(channel)

    def begins(self, begin: str, channel: str) -> bool:
        """Return whether the events of a pair ("joined" and "left") are wanted of a channel."""
        return any(self.match(kind, channel) is not None for kind in (begin, KINDS[begin]))
