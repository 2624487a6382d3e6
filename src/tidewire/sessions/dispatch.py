"""Step 3: route the commands of a served protocol, one function for each; one command of a connection at a time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tidewire.channels import open_channel
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import (
    INTERNAL_ERROR,
    CommandError,
    ConnectionClosed,
    NotPublished,
    PermissionDenied,
    PublishError,
    StoreUnavailable,
    TemporaryFailure,
)
from tidewire.messages import Ping, Publish, Subscribe, Unsubscribe
from tidewire.sessions.in_flight import InFlight

__all__ = ("Dispatcher",)

logger = logging.getLogger("tidewire")


class Dispatcher:
    """Handles what a client of a served protocol asks for. An idle connection has no task.

    Publishes wait for the store together; anything else waits for those before it.
    """

    __slots__ = ("_channel", "_connection", "_in_flight", "_is_running", "_node")

    def __init__(self, node: Node, connection: Connection, channel: str = "") -> None:
        self._node = node
        self._connection = connection
        self._channel = channel
        self._is_running = False
        self._in_flight = InFlight(node, connection, "publishes_in_flight", waits=node.broker.waits)
        connection.serve(self._readable)
        if connection.has_messages:
            self._readable()

    def _readable(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._node.begin(self._connection, self._run)

    async def _run(self) -> None:
        connection = self._connection
        try:
            while (message := connection.receive_nowait()) is not None:
                try:
                    for command in connection.protocol.decode(message):
                        if not isinstance(command, Publish):
                            await self._in_flight.wait()
                        await _HANDLERS[type(command)](self, command)
                except CommandError as error:
                    self._tell(error)
        except ConnectionClosed:
            pass
        except Exception:
            logger.exception("a command of connection %s failed; the client gets code 1011", connection.id)
            connection.fail(INTERNAL_ERROR)
        finally:
            self._is_running = False

    def _name(self, channel: str) -> str:
        """Return the channel that a command means, if clients may name it."""
        return open_channel(channel or self._channel, self._node.limits)

    async def publish(self, command: Publish) -> None:
        """Publish what the client sent."""
        name = self._name(command.channel)
        if not self._node.rules.options(name).publish:
            raise PermissionDenied(f"clients do not publish in {name!r}")
        await self._in_flight.put(self._keep(name, command))

    async def _keep(self, channel: str, command: Publish) -> None:
        try:
            await self._node.publish(channel, command.data, command.format, key=command.key)
        except NotPublished as error:
            self._tell(TemporaryFailure(f"not published: {error}"))
        except PublishError as error:
            self._tell(TemporaryFailure(f"unconfirmed: {error}"))

    def _tell(self, error: CommandError) -> None:
        self._node.send(self._connection, self._connection.protocol.encode_error(error))

    async def subscribe(self, command: Subscribe) -> None:
        """Let the client follow a channel."""
        name = self._name(command.channel)
        if not self._node.rules.options(name).subscribe:
            raise PermissionDenied(f"clients do not subscribe to {name!r}")
        try:
            await self._node.subscribe(self._connection, name, since=command.since, history=command.history)
        except StoreUnavailable as error:
            raise TemporaryFailure(str(error)) from error

    async def unsubscribe(self, command: Unsubscribe) -> None:
        """Let the client follow a channel no longer."""
        await self._node.unsubscribe(self._connection, self._name(command.channel))

    async def ping(self, command: Ping) -> None:
        """Answer the dialect's own ping."""
        pong = self._connection.protocol.encode_pong()
        if pong is not None:
            self._node.send(self._connection, pong)


_HANDLERS: dict[type, Callable[[Dispatcher, Any], Awaitable[None]]] = {
    Publish: Dispatcher.publish,
    Subscribe: Dispatcher.subscribe,
    Unsubscribe: Dispatcher.unsubscribe,
    Ping: Dispatcher.ping,
}
