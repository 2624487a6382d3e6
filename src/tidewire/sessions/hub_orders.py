"""Orders of a hub to the connections of all nodes and protocols. An order that reaches no connection succeeds, too."""

from __future__ import annotations

import msgspec

from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import Disconnect
from tidewire.messages import Publication
from tidewire.protocols.centrifuge.codes import SERVER_UNSUBSCRIBE
from tidewire.protocols.meta import with_channel_info
from tidewire.sessions.centrifuge.directory import Sessions

__all__ = ("Ending", "Leaving", "Presenting", "ask", "obey_orders", "set_presence")

#: The verb of these orders among the messages between nodes (control.Control).
VERB = "hub"


class Ending(msgspec.Struct, frozen=True, tag="end"):
    """End one connection, if it belongs to the user, or to any user ("")."""

    connection: str
    user: str
    disconnect: Disconnect


class Leaving(msgspec.Struct, frozen=True, tag="leave"):
    """Unsubscribe the connections of a user from a channel."""

    user: str
    channel: str


class Presenting(msgspec.Struct, frozen=True, tag="present"):
    """Change the presence info of a connection in a channel."""

    connection: str
    channel: str
    info: bytes


_Order = Ending | Leaving | Presenting


async def ask(node: Node, order: _Order) -> None:
    """Give an order to all nodes; raises PublishError."""
    await node.control(Control(verb=VERB), msgspec.json.encode(order))


def obey_orders(node: Node) -> None:
    """Teach a node to obey the orders of all nodes."""
    node.on_control(VERB, lambda publication: _obey(node, publication))


def _obey(node: Node, publication: Publication) -> None:
    order: _Order = msgspec.json.decode(publication.data, type=_Order)
    if isinstance(order, Leaving):
        _unsubscribe(node, order)
        return
    connection = node.registry.connections.get(order.connection)
    if connection is None:
        return
    if isinstance(order, Presenting):
        node.tasks.spawn(set_presence(node, order.connection, order.channel, order.info))
    elif order.user in ("", connection.user):
        node.fanout.flush_for(connection)
        connection.end(order.disconnect)


def _unsubscribe(node: Node, order: Leaving) -> None:
    sessions = Sessions.of(node)
    for connection in tuple(node.registry.users.get(order.user, {}).values()):
        session = sessions.of_connection(connection.id)
        if session is not None:
            session.force_unsubscribe(order.channel, SERVER_UNSUBSCRIBE.code, SERVER_UNSUBSCRIBE.reason)
        else:
            node.tasks.spawn(node.unsubscribe(connection, order.channel))


async def set_presence(node: Node, id_: str, channel: str, info: bytes) -> bool:
    """Change the presence info of a connection of this node; False: it is not present there."""
    connection = node.registry.connections.get(id_)
    subscription = None if connection is None else node.registry.subscriptions(connection).get(channel)
    if subscription is None or subscription.stay is None:
        return False
    if Sessions.of(node).of_connection(id_) is not None:
        info = with_channel_info(subscription.stay.member.info, info)
    await node.memberships.update(subscription, info)
    return True
