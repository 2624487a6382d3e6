"""The commands of the native protocols, as values."""

from __future__ import annotations

import msgspec

from tidewire.messages import Format, Position

__all__ = ("Command", "Ping", "Publish", "Subscribe", "Unsubscribe")


class Subscribe(msgspec.Struct, frozen=True):
    """Command: subscribe to a channel; `since` asks for recovery, `history` for the newest publications."""

    channel: str
    since: Position | None = None
    history: int = 0


class Unsubscribe(msgspec.Struct, frozen=True):
    """Command: unsubscribe from a channel."""

    channel: str


class Publish(msgspec.Struct, frozen=True):
    """Command: publish in a channel ("": the one that the connection's route names)."""

    data: bytes
    format: Format
    channel: str = ""
    key: str = ""


class Ping(msgspec.Struct, frozen=True):
    """Command: answer with a pong."""


Command = Subscribe | Unsubscribe | Publish | Ping
