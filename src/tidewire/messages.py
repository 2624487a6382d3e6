"""The values that travel: every layer above this one speaks in them, and none passes a dict."""

from __future__ import annotations

from base64 import b64encode
from enum import IntEnum
from typing import Any, Self
from urllib.parse import quote, unquote

import msgspec

from tidewire.retention import Retention

__all__ = (
    "MAX_OFFSET",
    "Announcement",
    "Departure",
    "EphemeralPublication",
    "Format",
    "HistoryPage",
    "HistoryRequest",
    "IssuedToken",
    "Member",
    "Membership",
    "Position",
    "Publication",
    "PublishRequest",
    "WireMessage",
)


class Format(IntEnum):
    """The kind of a publication's bytes."""

    TEXT = 0
    BINARY = 1
    JSON = 2


#: The greatest offset: browsers and all stores can count to it, and one further.
MAX_OFFSET = 2**53 - 1


class IssuedToken(msgspec.Struct, frozen=True):
    """The token that a connection was opened with: its id (`jti`, "" for none), and when it was issued (`iat`)."""

    id: str = ""
    issued_at: float | None = None


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a channel's history: `offset` counts within `epoch`, which changes when the store lost data.

    An offset is 0 to MAX_OFFSET; code that takes one from a client checks that. As text it is `epoch:offset`, which
    fits into a header and a URL.
    """

    offset: int
    epoch: str

    def __str__(self) -> str:
        return f"{quote(self.epoch, safe='')}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position in a text; raises ValueError for any other text."""
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no position; write text, as str(position) does: epoch:offset")
        epoch, separator, digits = text.strip().rpartition(":")
        if separator and digits.isascii() and digits.isdecimal() and len(digits) < 17 and int(digits) <= MAX_OFFSET:
            return cls(int(digits), unquote(epoch))
        raise ValueError(f"{text[:80]!r} is no position; write it as str(position) does: epoch:offset")


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One message in a channel.

    `previous` is the offset of the publication before it in the same channel and epoch (0: it is the first).
    `time` is when the store kept it, in seconds since 1970. `meta` is opaque to the core: b"" or a JSON object.
    """

    channel: str
    offset: int
    previous: int
    epoch: str
    time: float
    data: bytes
    format: Format = Format.JSON
    meta: bytes = b""

    @property
    def position(self) -> Position:
        """The place of this publication: `since=` it gives the publications after it."""
        return Position(self.offset, self.epoch)

    def text(self) -> str:
        """Return the data as text; raises ValueError for bytes that are not UTF-8."""
        return self.data.decode()

    def json(self) -> Any:
        """Return the data as clients of JSON protocols get it: text is a string, bytes are a string in base64.

        Raises ValueError for data that was published as JSON and is none.
        """
        if self.format is Format.TEXT:
            return self.data.decode(errors="replace")
        if self.format is Format.BINARY:
            return b64encode(self.data).decode()
        try:
            return msgspec.json.decode(self.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"publication {self.position} of {self.channel!r} cannot be read: {error}") from None


class EphemeralPublication(Publication, frozen=True, gc=False):
    """A publication that nobody keeps: its offset is 0 and its epoch "". `sender` is the connection it comes from."""

    sender: str = ""


class PublishRequest(msgspec.Struct, frozen=True, gc=False):
    """A publication that a broker shall keep. The same `key` in the same channel within `key_age` seconds is kept once.

    A `retention` of None leaves the channel's as it is (the defaults, where nothing was published yet): a
    publisher outside of the application does not know its rules.
    """

    channel: str
    data: bytes
    format: Format = Format.JSON
    key: str = ""
    meta: bytes = b""
    retention: Retention | None = None
    key_age: float = 300.0


class HistoryRequest(msgspec.Struct, frozen=True, gc=False):
    """A read of a channel's history, as `Broker.read` does it.

    Forward: publications after `since` (exclusive; None: from the beginning of the retained ones), oldest first.
    With `reverse`: those before `since` (None: from the top), newest first. `limit` cuts the far end; 0 gives the
    position alone. `retention` hides everything beyond its size and age; None shows all that is stored.
    """

    channel: str
    retention: Retention | None = None
    since: Position | None = None
    limit: int | None = None
    reverse: bool = False


class HistoryPage(msgspec.Struct, frozen=True):
    """The answer of one atomic history read, publications in the order asked for.

    `top` is the channel's position at the moment of the read. `complete` says that nothing is missing between
    the position asked for (or, without one, the beginning of the retained window) and the first publication here;
    it is False when the epoch differs, or when something in between was trimmed. `is_cut` says that there is more
    behind the last publication, which was too much for one answer.
    """

    publications: tuple[Publication, ...]
    top: Position
    complete: bool
    is_cut: bool = False


class Member(msgspec.Struct, frozen=True, gc=False):
    """One connection in a channel, as presence lists it. `info` is b"" or a JSON value of the application."""

    connection: str
    user: str
    info: bytes = b""


class Announcement(msgspec.Struct, frozen=True, gc=False):
    """A publication that says that a user has joined or left, made by the node that notices."""

    data: bytes
    format: Format = Format.JSON


class Membership(msgspec.Struct, frozen=True, gc=False):
    """How a subscriber is present in its channel: not at all by default.

    `info` (b"" or a JSON value) shows in presence. `join` is published if the connection is its user's first one in
    the channel, and `leave` after the user's last one, however it ends; `leave_on_error` takes its place when the
    handler of the last one raised. An announcement makes the subscriber present, too.
    """

    present: bool = False
    info: bytes = b""
    join: Announcement | None = None
    leave: Announcement | None = None
    leave_on_error: Announcement | None = None

    @property
    def is_present(self) -> bool:
        """Whether the subscriber is a member of the channel."""
        return self.present or self.join is not None or self.leave is not None or self.leave_on_error is not None


class Departure(msgspec.Struct, frozen=True, gc=False):
    """A user whose connections in a channel all belonged to dead nodes; claimed by the node that got this value.

    `token` is the same for every claim of the same departure, so that an announcement
    published with it as `key` is kept once.
    """

    channel: str
    user: str
    token: str
    announcement: Announcement | None = None


class WireMessage(msgspec.Struct, frozen=True, gc=False):
    """One encoded WebSocket message: `data` is UTF-8 unless `binary`."""

    data: bytes
    binary: bool = False


class Subscribed(msgspec.Struct, frozen=True):
    """Reply to a subscribe: the position from which the channel is live, and earlier publications.

    `recovered` is None when no recovery was asked for. When it is True, `publications` is all that was missed;
    when it is False, `publications` is the newest history asked for. Those that do not fit are pushed behind the reply.

    Where the channel has a state (`ChannelRule.state`) and nothing was recovered, `state` is the application's value,
    and `position` that from which all is pushed: no publication is in the reply, and `recovered` is None.
    """

    channel: str
    position: Position
    publications: tuple[Publication, ...] = ()
    recovered: bool | None = None
    state: Any = None


class Dropped(msgspec.Struct, frozen=True):
    """Push: so many publications of a channel were dropped for this slow subscriber."""

    channel: str
    count: int
