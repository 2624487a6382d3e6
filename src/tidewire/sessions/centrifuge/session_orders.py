"""Orders of the application to the sessions of all nodes. An order that reaches no session succeeds, too."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidewire.channels import check_name, check_user
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import Disconnect
from tidewire.messages import Position
from tidewire.protocols.centrifuge.codes import FORCE_DISCONNECT, SERVER_UNSUBSCRIBE
from tidewire.rules.base import Grant

__all__ = (
    "VERB",
    "Disconnection",
    "Order",
    "Refreshing",
    "Subscribing",
    "Target",
    "Unsubscribing",
    "disconnect",
    "refresh",
    "subscribe",
    "unsubscribe",
)

#: The verb of these orders among the messages between nodes (control.Control).
VERB = "sessions"


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which connections are meant: those of a user ("": of nobody known), or one of them by its id or its secret."""

    user: str = ""
    client: str = ""
    session: str = ""


class Disconnection(msgspec.Struct, frozen=True, tag="disconnect"):
    """End connections, but those whose ids are in `spared`."""

    target: Target
    disconnect: Disconnect
    spared: tuple[str, ...] = ()


class Subscribing(msgspec.Struct, frozen=True, tag="subscribe"):
    """Subscribe connections to a channel, from now on or from a position."""

    target: Target
    channel: str
    grant: Grant
    since: Position | None = None


class Unsubscribing(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Unsubscribe connections from a channel."""

    target: Target
    channel: str
    code: int
    reason: str


class Refreshing(msgspec.Struct, frozen=True, tag="refresh"):
    """Set when connections end (None: never), or end them as expired."""

    target: Target
    expired: bool = False
    expires_at: float | None = None
    info: bytes = b""


Order = Disconnection | Subscribing | Unsubscribing | Refreshing


async def disconnect(
    node: Node,
    user: str,
    *,
    client: str = "",
    session: str = "",
    whitelist: Sequence[str] = (),
    disconnect: Disconnect = FORCE_DISCONNECT,
) -> None:
    """End connections of a user on all nodes; ids in `whitelist` stay. Raises BadRequest, PublishError."""
    await _ask(node, Disconnection(_target(user, client, session), disconnect, tuple(whitelist)))


async def subscribe(
    node: Node,
    user: str,
    channel: str,
    grant: Grant,
    *,
    client: str = "",
    session: str = "",
    since: Position | None = None,
) -> None:
    """Subscribe connections of a user to a channel, and tell them; raises BadRequest, PublishError."""
    await _ask(node, Subscribing(_target(user, client, session), channel, grant, since))


async def unsubscribe(
    node: Node,
    user: str,
    channel: str,
    *,
    client: str = "",
    session: str = "",
    code: int = SERVER_UNSUBSCRIBE.code,
    reason: str = SERVER_UNSUBSCRIBE.reason,
) -> None:
    """Unsubscribe connections of a user from a channel ("": from all), and tell them; raises as `disconnect`."""
    await _ask(node, Unsubscribing(_target(user, client, session), channel, code, reason))


async def refresh(
    node: Node,
    user: str,
    *,
    client: str = "",
    session: str = "",
    expired: bool = False,
    expires_at: float | None = None,
    info: bytes = b"",
) -> None:
    """Set when connections of a user end (seconds since 1970; None: never); raises BadRequest, PublishError."""
    await _ask(node, Refreshing(_target(user, client, session), expired, expires_at, info))


def _target(user: str, client: str, session: str) -> Target:
    return Target(check_user(user), check_name(client, "client"), check_name(session, "session"))


async def _ask(node: Node, order: Order) -> None:
    await node.control(Control(verb=VERB), msgspec.json.encode(order))
