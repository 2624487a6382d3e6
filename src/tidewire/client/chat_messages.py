"""Messages that a client of the chat dialect receives (protocols/chat.py is the server's side)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from tidewire.protocols.json_text import with_whole_characters

__all__ = (
    "ChatMessage",
    "History",
    "HistoryReply",
    "Inbox",
    "InboxReply",
    "Message",
    "Online",
    "PrivateMessage",
    "System",
    "Trouble",
    "decode_each",
    "decode_message",
)

logger = logging.getLogger("tidewire.client")

#: Bytes of an unreadable message that are logged.
_SHOWN = 200

T = TypeVar("T")


class ChatMessage(msgspec.Struct, frozen=True, tag_field="type", tag="chat_message"):
    """A message in the room."""

    sender: str
    content: str
    timestamp: str
    offset: int
    id: str | int | None = None
    room: str = "lobby"


class PrivateMessage(msgspec.Struct, frozen=True, tag_field="type", tag="private_chat_message"):
    """A message to this user alone."""

    sender: str
    target: str
    content: str
    timestamp: str
    offset: int
    id: str | int | None = None


class System(msgspec.Struct, frozen=True, tag_field="type", tag="system"):
    """A message of the server, as when a user joins or leaves."""

    content: str
    timestamp: str | None = None
    id: str | int | None = None


class Online(msgspec.Struct, frozen=True, tag_field="type", tag="online"):
    """The users in the room."""

    users: tuple[str, ...]


class Trouble(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """An error of the server that belongs to no `send`, which raises its own."""

    code: str
    content: str
    id: str | int | None = None


class History(msgspec.Struct, frozen=True):
    """Earlier messages; sent once, and again with `recovered` False when missed messages are not kept any more."""

    messages: tuple[ChatMessage, ...]
    recovered: bool | None


class Inbox(msgspec.Struct, frozen=True):
    """Earlier private messages, as `History`."""

    messages: tuple[PrivateMessage, ...]
    recovered: bool | None


Message = ChatMessage | PrivateMessage | System | Online | Trouble | History | Inbox


class HistoryReply(msgspec.Struct, frozen=True, tag_field="type", tag="history"):
    """The server's answer to joining."""

    messages: list[msgspec.Raw]
    epoch: str
    recovered: bool | None = None


class InboxReply(msgspec.Struct, frozen=True, tag_field="type", tag="inbox"):
    """The server's answer to asking for the inbox."""

    messages: list[msgspec.Raw]
    offset: int
    epoch: str
    recovered: bool | None = None
    more: bool = False


Received = ChatMessage | PrivateMessage | System | Online | Trouble | HistoryReply | InboxReply
_decoder: msgspec.json.Decoder[Received] = msgspec.json.Decoder(Received)


def decode_message(frame: str | bytes) -> Received | None:
    """Return a message of the server; None for a type of a later version, or for an application's own message."""
    data = frame if isinstance(frame, bytes) else frame.encode()
    for text in (data, with_whole_characters(data)):
        try:
            return _decoder.decode(text)
        except msgspec.ValidationError:
            return None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            problem = error
    logger.warning("a message of the server cannot be read, and is skipped: %s: %r", problem, data[:_SHOWN])
    return None


def decode_each(raw: Sequence[msgspec.Raw], type_: type[T]) -> Iterator[T]:
    """Yield the messages that are of a type, and leave out the others."""
    for part in raw:
        try:
            yield msgspec.json.decode(with_whole_characters(bytes(part)), type=type_)
        except msgspec.ValidationError:
            continue
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            logger.warning(
                "a message of the history cannot be read, and is skipped: %s: %r", error, bytes(part)[:_SHOWN]
            )
