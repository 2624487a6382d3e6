"""Everything that tidewire raises, as a tree of classes (docs/reference/api.md), and why a connection ends.

A CommandError answers one command, and the connection lives on; a Disconnect ends it. Those that tidewire itself uses
are in protocols/close_codes.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = (
    "AlreadyStreaming",
    "AlreadySubscribed",
    "BadRequest",
    "CommandError",
    "ConfigurationError",
    "ConnectionClosed",
    "CutOff",
    "Disconnect",
    "EntryChanged",
    "InvalidMessage",
    "LimitExceeded",
    "NotAvailable",
    "NotPublished",
    "PermissionDenied",
    "Problem",
    "PublishError",
    "PublishUnconfirmed",
    "RateLimited",
    "Refused",
    "Rejected",
    "StateFailed",
    "Stopped",
    "StoreUnavailable",
    "TemporaryFailure",
    "TidewireError",
    "TokenExpired",
    "UnknownChannel",
    "UnknownType",
    "Unrecoverable",
    "VersionConflict",
)


class TidewireError(Exception):
    """The root of everything that tidewire raises."""


class ConfigurationError(TidewireError):
    """Raised for a setting, URL or argument that cannot work; says how to write it."""


class PublishError(TidewireError):
    """A publish that the store did not confirm."""


class NotPublished(PublishError):
    """Raised when a publication was surely not kept: nobody saw it or will see it."""


class PublishUnconfirmed(PublishError):
    """Raised when the store did not answer in time: the publication may or may not be kept.

    Publish it again with the same `key`; a repetition within the key's window is harmless.
    """


class StoreUnavailable(TidewireError):
    """Raised when history, presence or positions cannot be read at the moment."""


class Disconnect(msgspec.Struct, frozen=True):
    """Why a connection ends: a WebSocket close code (RFC 6455 section 7.4), a short reason, and may the client return.

    4000–4499 mean "come back and recover", 4500–4999 mean "do not come back", as in the Centrifuge protocol.
    """

    code: int
    reason: str
    reconnect: bool = True


class ConnectionClosed(TidewireError):
    """Raised when a connection is read or written after its end; holds the `Disconnect`."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(f"the connection has ended (code {disconnect.code}: {disconnect.reason or 'no reason given'})")
        self.disconnect = disconnect


class StateFailed(TidewireError):
    """Raised when the application's function for a channel's state or polled values failed; the log says why."""


class CutOff(TidewireError):
    """Raised when a reader (`Hub.listen`) is cut off: it was too slow, or publications cannot be recovered.

    Listen again with `since=error.position`, the place of the last publication that it took: nothing is missed, or
    `recovered` is False. `disconnect` says why.
    """

    def __init__(self, channel: str, disconnect: Disconnect, position: Any) -> None:
        super().__init__(
            f"the reader of {channel!r} was ended ({disconnect.reason}); listen again with since={str(position)!r}"
        )
        self.disconnect = disconnect
        self.position = position


class AlreadyStreaming(TidewireError):
    """Raised by `async with hub.stream(…)` while another producer writes in the same channel, on any node."""


class Stopped(TidewireError):
    """Raised by `write` of a text stream that a reader has stopped; `async with hub.stream(…)` ends with it quietly."""


class EntryChanged(TidewireError):
    """Raised by `set` and `unset` when the entry of a map is not the one that was expected; read it again."""


class Rejected(TidewireError):
    """Raised by a rule of the application to end the connection; holds the `Disconnect` that the client is given."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(f"the connection is ended (code {disconnect.code}: {disconnect.reason or 'no reason given'})")
        self.disconnect = disconnect


class CommandError(TidewireError):
    """Answers one command; `code` is a stable word for programs, the text is for people."""

    code = "internal"
    temporary = False


class BadRequest(CommandError):
    """The message cannot be decoded, or has the wrong shape; the text names the expected one."""

    code = "bad_request"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a message, as FastAPI reports it: its kind, its place ("body" first), and words."""

    type: str
    loc: tuple[str | int, ...]
    msg: str
    input: Any = msgspec.UNSET


class InvalidMessage(BadRequest):
    """The message is not of the type that its channel or call declares; `problems` are as in FastAPI's answer 422."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    @property
    def detail(self) -> list[Any]:
        """The problems as FastAPI writes them in the `detail` of a 422."""
        found: list[Any] = msgspec.json.decode(msgspec.json.encode(self.problems))
        return found


class UnknownType(CommandError):
    """The message is well formed, but of a type that this protocol does not have."""

    code = "unknown_type"


class PermissionDenied(CommandError):
    """A channel rule does not let this user do this."""

    code = "permission_denied"


class NotAvailable(CommandError):
    """The channel does not offer this (no history, no presence)."""

    code = "not_available"


class UnknownChannel(CommandError):
    """No rule names this channel."""

    code = "unknown_channel"


class AlreadySubscribed(BadRequest):
    """This connection is subscribed to the channel already."""


class TokenExpired(CommandError):
    """The token has expired; the client fetches another one and connects again."""

    code = "token_expired"


class Unrecoverable(CommandError):
    """The missed publications cannot all be recovered, and the client accepts nothing less."""

    code = "unrecoverable"


class VersionConflict(CommandError):
    """The channel has a version that is as new, or is not at the position any more; `newest` is the one that it has."""

    code = "version_conflict"

    def __init__(self, message: str, newest: Any = None) -> None:
        super().__init__(message)
        self.newest = newest


class Refused(CommandError):
    """The application refuses with a number of its own: 400 to 1999."""

    code = "refused"

    def __init__(self, number: int, message: str, *, temporary: bool = False) -> None:
        if not 400 <= number <= 1999:
            raise ConfigurationError(f"error number {number} cannot be the application's; write 400 to 1999")
        super().__init__(message)
        self.number = number
        self.temporary = temporary


class LimitExceeded(CommandError):
    """A named limit was reached; the text names it."""

    code = "limit_exceeded"


class RateLimited(CommandError):
    """More messages than the rate allows; the message was not handled. `retry_after` is in seconds, if it is known."""

    code = "rate_limited"
    temporary = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TemporaryFailure(CommandError):
    """The store is away; the same command may work later."""

    code = "unavailable"
    temporary = True
