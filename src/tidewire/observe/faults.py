"""Faults on purpose: a cable that is cut, a client that is frozen, a killed worker, a store that hangs.

Only a playground asks for them (hub/routers.py); a node without one ignores such orders.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import msgspec

from tidewire.engine.connection import Connection
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.links.held_link import HeldLink
from tidewire.messages import Publication
from tidewire.observe.hanging_store import Hang
from tidewire.support.siblings import Siblings

__all__ = ("Cut", "Fault", "Faults", "Freeze", "Kill", "Stop")

logger = logging.getLogger("tidewire")

#: The verb of these orders among the messages between nodes (control.Control).
_VERB = "fault"
#: Seconds before a kill, in which the answer reaches the caller that asked for it.
_ANSWER_SECONDS = 0.1


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """Cut connections off: no byte passes for some seconds, then they end without a close frame."""

    clients: tuple[str, ...]
    seconds: float


class Freeze(msgspec.Struct, frozen=True, tag="freeze"):
    """Freeze connections: they take nothing for some seconds."""

    clients: tuple[str, ...]
    seconds: float


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """Kill the process of a node."""

    node: str


class Stop(msgspec.Struct, frozen=True, tag="hang"):
    """Stop the store: it answers nobody for some seconds."""

    seconds: float


Fault = Cut | Freeze | Kill | Stop


class Faults:
    """Sends orders to all nodes, and obeys those for a connection, the process or the store of this node."""

    def __init__(self, node: Node, hang: Hang) -> None:
        self._node = node
        self._hang = hang

    def start(self) -> None:
        """Obey the orders of all nodes from now on."""
        self._node.on_control(_VERB, self._obey)

    @property
    def has_supervisor(self) -> bool:
        """Whether a worker that is killed is replaced."""
        return Siblings.of(asyncio.get_running_loop()).workers > 1

    async def order(self, fault: Fault) -> None:
        """Ask all nodes; raises PublishError."""
        await self._node.control(Control(verb=_VERB), msgspec.json.encode(fault))

    def _obey(self, publication: Publication) -> None:
        fault: Fault = msgspec.json.decode(publication.data, type=Fault)
        match fault:
            case Stop():
                logger.warning("playground: the store hangs for %g s", fault.seconds)
                self._hang.begin(fault.seconds)
            case Kill():
                if fault.node == self._node.id and self.has_supervisor:
                    logger.warning("playground: process %d is killed", os.getpid())
                    asyncio.get_running_loop().call_later(_ANSWER_SECONDS, os.kill, os.getpid(), signal.SIGKILL)
            case Cut() | Freeze():
                for client in fault.clients:
                    connection = self._node.registry.connections.get(client)
                    if connection is not None:
                        self._hold(connection, fault)

    def _hold(self, connection: Connection, fault: Cut | Freeze) -> None:
        """Put a link that holds everything in front of the connection's own link, until the fault is over."""
        is_cut = isinstance(fault, Cut)
        if isinstance(connection.link, HeldLink):  # the fault before ends, but a cut connection stays cut
            if connection.link.is_cut:
                return
            connection.link.release()
            connection.route(connection.link.link)
        self._node.fanout.flush_for(connection)
        held = HeldLink(connection.link, connection, self._node.limits, is_cut=is_cut)
        connection.route(held)
        over = self._come_back if is_cut else self._thaw
        asyncio.get_running_loop().call_later(fault.seconds, over, connection, held)

    def _come_back(self, connection: Connection, held: HeldLink) -> None:
        if connection.link is held:
            connection.route(held.link)
        held.abort()

    def _thaw(self, connection: Connection, held: HeldLink) -> None:
        if connection.link is held:
            connection.route(held.link)
        held.release()
