"""The chat dialect: JSON objects with a `type`, or plain text as typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, cast

import msgspec

from tidewire.errors import BadRequest, CommandError, UnknownType
from tidewire.limits import Limits
from tidewire.messages import Dropped, Format, Publication, Subscribed, WireMessage
from tidewire.protocols.base import Protocol, to_utf8
from tidewire.protocols.json import iso_time, with_fields
from tidewire.protocols.json_text import JsonDecoder

__all__ = (
    "CHAT",
    "Auth",
    "Chat",
    "ChatCommand",
    "ChatMessage",
    "ChatProtocol",
    "Earlier",
    "EarlierMessages",
    "Error",
    "Foreign",
    "Inbox",
    "Join",
    "Leave",
    "Left",
    "Online",
    "OnlineUsers",
    "Ping",
    "Pong",
    "PrivateChat",
    "PrivateChatMessage",
    "RoomEntry",
    "RoomList",
    "Rooms",
    "System",
)

#: The room of a message that names none.
LOBBY = "lobby"

#: The channels of rooms.
_ROOM = "room:"

_PRIVATE_USAGE = "Invalid /pm command format. Use '/pm username message'"


class _In(msgspec.Struct, frozen=True, tag_field="type"):
    """A message of a client."""


class _InRoom(_In, frozen=True):
    """A message of a client to a room."""

    def __post_init__(self) -> None:
        # fields at their defaults, which msgspec judges by identity, are left out of answers
        if self.room == LOBBY:  # type: ignore[attr-defined]
            msgspec.structs.force_setattr(self, "room", LOBBY)


class Chat(_InRoom, frozen=True, tag="chat"):
    """Publish a message in a room; `id` makes a repetition harmless."""

    message: str
    id: str | int | None = None
    room: str = LOBBY


class PrivateChat(_In, frozen=True, tag="private_chat"):
    """Send a message to one user; `keep`: also to a user who is away, and to all devices of the sender."""

    target_user: str
    message: str
    id: str | int | None = None
    keep: bool = False


class Ping(_In, frozen=True, tag="ping"):
    """Ask for a pong."""


class Auth(_In, frozen=True, tag="auth"):
    """Present a token, as the first message."""

    token: str


class Online(_InRoom, frozen=True, tag="online"):
    """Ask for the users in a room."""

    room: str = LOBBY


class Join(_InRoom, frozen=True, tag="join"):
    """Subscribe to one more room, from a position if there is one."""

    room: str
    since: Annotated[int, msgspec.Meta(ge=0)] | None = None
    epoch: str = ""


class Leave(_InRoom, frozen=True, tag="leave"):
    """Unsubscribe from a room."""

    room: str


class Earlier(_InRoom, frozen=True, tag="earlier"):
    """Ask for the messages of a room before one of them."""

    before: Annotated[int, msgspec.Meta(ge=0)]
    epoch: str = ""
    room: str = LOBBY


class Rooms(_In, frozen=True, tag="rooms"):
    """Ask for the list of rooms."""


ChatCommand = Chat | PrivateChat | Ping | Auth | Online | Join | Leave | Earlier | Rooms

#: The beginnings of stored messages that get fields of their publication.
_SAID = (b'{"type":"chat_message"', b'{"type":"private_chat_message"')
_SYSTEM = b'{"type":"system"'

_TYPES = frozenset({"chat", "private_chat", "ping", "auth", "online", "join", "leave", "earlier", "rooms"})


class _About(msgspec.Struct, frozen=True):
    """The message that an error is about."""

    id: str | int | None = None
    room: str = LOBBY


class _Out(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """A message of the server; fields at their defaults are left out."""


class ChatMessage(_Out, frozen=True, tag="chat_message"):
    """A message to a room, as it is stored; `timestamp` and `offset` are added on the way out."""

    sender: str
    content: str
    id: str | int | None = None
    room: str = LOBBY


class PrivateChatMessage(_Out, frozen=True, tag="private_chat_message"):
    """A message to one user, as it is stored."""

    sender: str
    target: str
    content: str
    id: str | int | None = None


class System(_Out, frozen=True, tag="system"):
    """A notice of the server."""

    content: str
    timestamp: str | None = None
    id: str | int | None = None
    room: str = LOBBY


class OnlineUsers(_Out, frozen=True, tag="online"):
    """The users in a room."""

    users: list[str]
    room: str = LOBBY


class History(_Out, frozen=True, tag="history"):
    """Earlier messages, oldest first; each message with its offset."""

    messages: list[msgspec.Raw]
    epoch: str
    recovered: bool | msgspec.UnsetType = msgspec.UNSET
    room: str = LOBBY


class EarlierMessages(_Out, frozen=True, tag="earlier"):
    """The messages before another one, oldest first; `more`: there are still older ones."""

    messages: list[msgspec.Raw]
    epoch: str
    more: bool = False
    room: str = LOBBY


class Foreign(_Out, frozen=True, tag="publication"):
    """A publication in a room that is no message of this dialect; `data` is a text, or JSON."""

    data: msgspec.Raw
    timestamp: str
    offset: int
    room: str = LOBBY


class Inbox(_Out, frozen=True, tag="inbox"):
    """Missed private messages, and the position that they reach: from there on the inbox is live, or `more` come."""

    messages: list[msgspec.Raw]
    offset: int
    epoch: str
    recovered: bool | msgspec.UnsetType = msgspec.UNSET
    more: bool = False


class Left(_Out, frozen=True, tag="left"):
    """The client has left the room."""

    room: str


class RoomEntry(msgspec.Struct, frozen=True):
    """One room, and how many users are in it."""

    name: str
    online: int


class RoomList(_Out, frozen=True, tag="rooms"):
    """All rooms."""

    rooms: list[RoomEntry]


class Pong(_Out, frozen=True, tag="pong"):
    """The answer to a ping."""


class Error(_Out, frozen=True, tag="error"):
    """An error; with the `id` of the message that was not delivered, where it had one."""

    code: str
    content: str
    id: str | int | None = None
    room: str = LOBBY


_encode = msgspec.json.Encoder().encode
_EXPECTED = 'an object such as {"type": "chat", "message": "hello"}'
_about = JsonDecoder(_About, expected="an id and a room")
_said = msgspec.json.Decoder(ChatMessage).decode
_type_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ChatProtocol(Protocol[ChatCommand]):
    """Encodes and decodes the chat dialect; the chat itself is `server/chat_session.py`.

    `json_depth` is how deep a client's JSON may be nested.
    """

    subprotocol = "chat"

    def __init__(self, *, json_depth: int = Limits().json_depth) -> None:
        self._decoder = JsonDecoder(ChatCommand, expected=_EXPECTED, depth=json_depth)

    def decode(self, message: str | bytes) -> Sequence[ChatCommand]:
        """Decode JSON (in a text or binary message), or plain text: a chat message, or `/pm user message`.

        Text is taken for JSON when it begins with a brace, or is a JSON array.
        """
        if isinstance(message, bytes):
            return (self._decode_json(message),)
        stripped = message.strip()
        data = to_utf8(stripped)
        if stripped.startswith("{") or _is_array(stripped):
            return (self._decode_json(data),)
        if stripped.startswith("/pm") and not stripped[3:4].strip():
            return (_private(stripped),)
        return (Chat(message),)

    def _decode_json(self, data: bytes) -> ChatCommand:
        try:
            command = self._decoder.decode(data)
        except BadRequest as error:
            unknown = _unknown_type(data)
            if unknown is not None:
                raise UnknownType(
                    f"there is no type {unknown[:80]!r}; expected one of {', '.join(sorted(_TYPES))}"
                ) from error
            raise
        return command  # type: ignore[return-value]

    def encode(self, message: _Out) -> WireMessage:
        """Encode one message that belongs to no channel."""
        return WireMessage(_encode(message))

    def encode_publication(self, publication: Publication) -> WireMessage:
        """Encode a stored message with its timestamp, the time at which it was kept; a chat message has its offset."""
        data = publication.data
        if publication.channel.startswith(_ROOM) and not _is_said_in(publication):
            return self.encode(_foreign(publication))
        if data.startswith(_SAID):
            fields = b'"timestamp":"%b","offset":%d' % (iso_time(publication.time).encode(), publication.offset)
        elif data.startswith(_SYSTEM):
            fields = b'"timestamp":"%b"' % iso_time(publication.time).encode()
        else:
            return WireMessage(data, publication.format is Format.BINARY)
        return WireMessage(with_fields(data, fields))

    def raw(self, publication: Publication) -> msgspec.Raw:
        """Encode a stored message as part of another one."""
        return msgspec.Raw(self.encode_publication(publication).data)

    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        encoded = [self.raw(publication) for publication in reply.publications]
        recovered = msgspec.UNSET if reply.recovered is None else reply.recovered
        room = sys.intern(reply.channel.partition(":")[2])
        return [self.encode(History(encoded, reply.position.epoch, recovered, room))]

    def encode_error(self, error: CommandError) -> WireMessage:
        return self.encode(Error(error.code, str(error)))

    def encode_refusal(self, error: CommandError, message: str | bytes) -> WireMessage:
        try:
            about = cast(
                _About, _about.decode(message.encode(errors="replace") if isinstance(message, str) else message)
            )
        except BadRequest:
            return self.encode_error(error)
        return self.encode(Error(error.code, str(error), about.id, sys.intern(about.room)))

    def encode_pong(self) -> WireMessage | None:
        return self.encode(Pong())

    def encode_dropped(self, push: Dropped) -> WireMessage:
        text = f"{push.count} messages were dropped, this connection is too slow"
        return self.encode(Error("dropped", text, room=sys.intern(push.channel.partition(":")[2])))


def _is_said_in(publication: Publication) -> bool:
    """Return whether a publication in a room is one of the chat's messages, because anybody may have published it."""
    try:
        message = _said(publication.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return publication.data.startswith(_SAID[0]) and f"{_ROOM}{message.room}" == publication.channel


def _foreign(publication: Publication) -> Foreign:
    """Return the form in which a room's members are shown a publication that is not the chat's."""
    room = sys.intern(publication.channel.removeprefix(_ROOM))
    data = publication.data
    if publication.format is not Format.JSON:
        data = _encode(data.decode("utf-8", "replace"))
    return Foreign(msgspec.Raw(data), iso_time(publication.time), publication.offset, room)


def _private(text: str) -> PrivateChat:
    parts = text.split(maxsplit=2)
    if len(parts) < 3:
        raise BadRequest(_PRIVATE_USAGE)
    return PrivateChat(parts[1], parts[2])


def _is_array(text: str) -> bool:
    if not text.startswith("["):
        return False
    try:
        msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _unknown_type(data: bytes) -> str | None:
    """Return the `type` of a JSON object if it is a string that this dialect does not have."""
    try:
        found = msgspec.json.decode(_type_of(data).get("type", msgspec.Raw(b"null")))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, str) and found not in _TYPES else None


#: The instance that connections share.
CHAT = ChatProtocol()
