"""A route that serves a native protocol: no coroutine of the application waits while its connection is idle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import WebSocketException
from starlette.requests import Request
from starlette.websockets import WebSocket

from tidewire.channels import open_channel
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import (
    CommandError,
    ConnectionClosed,
    PublishError,
    StoreUnavailable,
)
from tidewire.messages import Membership
from tidewire.protocols.base import Protocol
from tidewire.protocols.close_codes import STORE_AWAY
from tidewire.protocols.native_commands import Ping, Publish, Subscribe, Unsubscribe
from tidewire.protocols.outages import outage
from tidewire.rules.base import Identity
from tidewire.rules.rule_authority import RuleAuthority
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.access import Access
from tidewire.sessions.centrifuge.identify import Name, identified_by
from tidewire.sessions.command_queue import CommandQueue
from tidewire.sessions.in_flight import Settle
from tidewire.sessions.origins import Origins
from tidewire.support.refusals import kind_of, note_handshake

__all__ = ("ServedCommands", "ServedEndpoint", "protocol_router")


_STRANGER = Identity()


class ServedEndpoint:
    """Serves WebSockets: accepts, subscribes to the route's channel, and starts a command queue."""

    __slots__ = ("_authority", "_history", "_node", "_origins", "_protocol")

    def __init__(
        self,
        node: Callable[[], Node],
        protocol: Protocol[Any],
        *,
        authority: RuleAuthority,
        origins: Origins,
        history: int,
    ) -> None:
        self._node = node
        self._authority = authority
        self._protocol = protocol
        self._origins = origins
        self._history = history

    async def serve(self, websocket: WebSocket, identity: Identity) -> None:
        """Serve one client until it leaves; raises as entering an `Acceptance` does."""
        node = self._node()
        channel = websocket.path_params.get("channel", "")
        membership = await self._check_route(node, websocket, channel, identity) if channel else Membership()
        subprotocol = self._protocol.subprotocol
        if subprotocol not in websocket.scope.get("subprotocols", ()):
            subprotocol = None
        acceptance = Acceptance(
            node,
            websocket,
            user=identity.user,
            protocol=self._protocol,
            origins=self._origins,
            subprotocol=subprotocol,
        )
        async with acceptance as connection:
            access = Access(node, self._authority, identity, connection)
            await self._begin(node, connection, channel, access, membership)
            await acceptance.hold()

    async def _check_route(self, node: Node, websocket: WebSocket, channel: str, identity: Identity) -> Membership:
        """Return how the client is present in the route's channel.

        Raises WebSocketException, which refuses the handshake, for one that it may not subscribe to.
        """
        try:
            open_channel(channel, node.limits.channel_name)
            return await Access(node, self._authority, identity).subscribe(channel)
        except CommandError as error:
            note_handshake(websocket.scope, kind_of(error), str(error), user=identity.user)
            raise WebSocketException(1008, str(error)[:120]) from None

    async def _begin(
        self, node: Node, connection: Connection, channel: str, access: Access, membership: Membership
    ) -> None:
        try:
            if channel:
                await node.subscribe(connection, channel, history=self._history, membership=membership)
        except StoreUnavailable:
            connection.end(STORE_AWAY)
        except ConnectionClosed:
            return
        ServedCommands(node, connection, access, channel).start()
        connection.link.uncork()


def protocol_router(
    path: str,
    endpoint: ServedEndpoint,
    user: Callable[..., Any] | None,
    name: Name | None,
    see: Callable[[Any], None],
) -> APIRouter:
    """Make a router with one WebSocket route; Hub.protocol_router says how it is used."""
    router = APIRouter()
    identify = identified_by(user, name, see, unmet=(Request,))

    async def serve(websocket: WebSocket) -> None:
        await endpoint.serve(websocket, await identify(websocket) or _STRANGER)

    router.add_api_websocket_route(path, serve)
    return router


class ServedCommands:
    """Runs the commands of one client: subscribe, unsubscribe, publish, ping.

    Publications wait for the store together; any other command waits for those before it.
    """

    __slots__ = ("_access", "_channel", "_connection", "_node", "_queue")

    def __init__(self, node: Node, connection: Connection, access: Access, channel: str = "") -> None:
        self._access = access
        self._node = node
        self._connection = connection
        self._channel = channel
        self._queue = CommandQueue(node, connection, self._handle)

    def start(self) -> None:
        """Begin to take messages."""
        self._queue.start()

    async def _handle(self, message: str | bytes) -> None:
        command, meter = None, self._node.meter
        try:
            for command in self._connection.protocol.decode(message):
                if not isinstance(command, Publish):
                    await self._queue.publishes.wait()
                work = _METHODS[type(command)](self, command)
                if meter is not None:
                    name = type(command).__name__.lower()
                    work = work if isinstance(command, Publish) else meter.timed("command", name, work)
                    work = meter.command(name, work, self._connection.id)
                await work
        except (CommandError, PublishError, StoreUnavailable) as error:
            if meter is not None and isinstance(command, Publish):
                meter.add("command", "publish", "failed", 0.0)
            self._settle(error)

    def _name(self, channel: str) -> str:
        """Return the channel that a command means, if clients may name it."""
        return open_channel(channel or self._channel, self._node.limits.channel_name)

    async def publish(self, command: Publish) -> None:
        """Publish a message of the client."""
        name = self._name(command.channel)
        payload = await self._access.take(name, command.data, command.format)
        settle: Settle = self._settle
        meter = self._node.meter
        if meter is not None and meter.is_due:
            settle = meter.timed_until("command", "publish", settle)
        if payload is None:
            settle(None)
        else:
            await self._queue.publishes.publish(name, *payload, settle, key=command.key)

    def _settle(self, error: BaseException | None) -> None:
        if error is not None:
            self._connection.refuse(kind_of(error), str(error))
            refusal = error if isinstance(error, CommandError) else outage(error)
            self._node.send(self._connection, self._connection.protocol.encode_error(refusal))

    async def subscribe(self, command: Subscribe) -> None:
        """Subscribe the client to a channel."""
        name = self._name(command.channel)
        membership = await self._access.subscribe(name)
        await self._node.subscribe(
            self._connection, name, since=command.since, history=command.history, membership=membership
        )

    async def unsubscribe(self, command: Unsubscribe) -> None:
        """Unsubscribe the client from a channel."""
        await self._node.unsubscribe(self._connection, self._name(command.channel))

    async def ping(self, command: Ping) -> None:
        """Answer the dialect's own ping."""
        pong = self._connection.protocol.encode_pong()
        if pong is not None:
            self._node.send(self._connection, pong)


_METHODS: dict[type, Callable[[ServedCommands, Any], Awaitable[None]]] = {
    Publish: ServedCommands.publish,
    Subscribe: ServedCommands.subscribe,
    Unsubscribe: ServedCommands.unsubscribe,
    Ping: ServedCommands.ping,
}
