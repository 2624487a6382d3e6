"""The messages of the chat as clients get them, with the fields that the protocol adds on the way out.

They are the types of the AsyncAPI document, and of the chat's page; the dialect itself is `protocols/chat.py`.
"""

from __future__ import annotations

from typing import Any

from tidewire.protocols import chat

__all__ = ("ACCEPTED", "SHOWN")


class ShownMessage(chat.ChatMessage, frozen=True, kw_only=True, tag="chat_message"):
    """A message that a user has published in a room."""

    timestamp: str
    offset: int


class ShownPrivateMessage(chat.PrivateChatMessage, frozen=True, kw_only=True, tag="private_chat_message"):
    """A message to one user, on the devices of both."""

    timestamp: str
    offset: int


class ShownForeign(chat.Foreign, frozen=True, kw_only=True, tag="publication"):
    """Something else that was published in a room; `data` is a text, or JSON."""

    data: Any


class ShownHistory(chat.History, frozen=True, kw_only=True, tag="history"):
    """Earlier messages, oldest first, after joining."""

    messages: list[ShownMessage | chat.System | ShownForeign]  # type: ignore[assignment]


class ShownEarlier(chat.EarlierMessages, frozen=True, kw_only=True, tag="earlier"):
    """The messages before another one, oldest first; `more`: there are still older ones."""

    messages: list[ShownMessage | chat.System | ShownForeign]  # type: ignore[assignment]


class ShownInbox(chat.Inbox, frozen=True, kw_only=True, tag="inbox"):
    """Private messages that were missed, and the position from which the inbox is live."""

    messages: list[ShownPrivateMessage]  # type: ignore[assignment]


#: All messages that a client may be sent.
SHOWN = (
    ShownHistory
    | ShownInbox
    | chat.OnlineUsers
    | ShownEarlier
    | ShownForeign
    | ShownMessage
    | ShownPrivateMessage
    | chat.System
    | chat.RoomList
    | chat.Left
    | chat.Pong
    | chat.Error
)
ACCEPTED = chat.ChatCommand
