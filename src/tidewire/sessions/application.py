"""The verbs of a connection inside a FastAPI endpoint; `held_connection` has its beginning, its user and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from threading import get_ident
from typing import Any, TypeVar, overload

from tidewire.channels import check_name, open_channel
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import Prepared
from tidewire.errors import (
    BadRequest,
    CommandError,
    ConnectionClosed,
    Disconnect,
    InvalidMessage,
    NotAvailable,
    NotPublished,
    PublishError,
    StoreUnavailable,
)
from tidewire.messages import Format, Membership, Position, Subscribed, WireMessage
from tidewire.protocols.close_codes import NORMAL, STORE_AWAY
from tidewire.protocols.json_text import JsonDecoder
from tidewire.protocols.map_changes import Entry
from tidewire.protocols.message_shape import checked_announcement
from tidewire.protocols.meta import PublicationMeta
from tidewire.protocols.outages import outage
from tidewire.protocols.payload import connection_id, encode_json, encode_message, encode_payload
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.arguments import bytes_from, count_from, flag_from, offset_from, position_from
from tidewire.sessions.held_connection import HeldConnection
from tidewire.sessions.hub_orders import set_presence
from tidewire.sessions.maps import Maps
from tidewire.support.refusals import kind_of

__all__ = ("HubConnection",)

T = TypeVar("T")


class HubConnection(HeldConnection):
    """One client of a FastAPI endpoint; made by `Hub.connect`, used with `async with`.

    Receiving raises ConnectionClosed after the last message; the `iter_*` methods end instead. Sending waits while the
    client does not take earlier messages. A block that never receives is cancelled when its client has left
    (`limits.leaving_seconds` later), as FastAPI ends a stream; it ends without an error.
    """

    __slots__ = ("_kept", "_named")

    def __init__(self, node: Node, acceptance: Acceptance, *, expires_at: float | None = None) -> None:
        super().__init__(node, acceptance, expires_at=expires_at)
        #: The outcome of all publications that waited for no store.
        self._kept: asyncio.Future[bool] | None = None
        #: The last channel whose name was judged.
        self._named = ""

    # Channels.

    async def subscribe(
        self,
        channel: str,
        *,
        since: str | Position | None = None,
        history: int = 0,
        presence: bool = False,
        join: Any = None,
        leave: Any = None,
        leave_on_error: Any = None,
        info: Any = None,
        reply: bool = True,
    ) -> Subscribed:
        """Subscribe to a channel: its history, or publications missed since a position, come first, then new ones.

        `join` is published when this is the user's first connection in the channel, `leave` when the last one has ended
        for any reason, by another node if this one died; `leave_on_error` takes its place when the handler raised. Each
        of them, and `presence`, makes the connection a member. Where the channel has a state, that comes back instead
        of history (`Subscribed.state`): if no answer of the protocol has it, send it before you wait for anything.
        `reply=False` sends the client neither the protocol's answer nor earlier publications; they are in the result.
        Raises CommandError, StoreUnavailable, StateFailed, ConnectionClosed.
        """
        name = self._open_channel(channel)
        shape = self._node.options.shape(name)
        try:
            prepared = await self._node.subscriptions.prepare(
                self._here,
                name,
                since=position_from(since),
                history=count_from(history, "history"),
                with_state=True,
                membership=Membership(
                    present=presence,
                    info=b"" if info is None else encode_json(info),
                    join=checked_announcement(shape, join),
                    leave=checked_announcement(shape, leave),
                    leave_on_error=checked_announcement(shape, leave_on_error),
                ),
            )
            return await self._begin(prepared, reply=reply)
        finally:
            self._here.link.uncork()

    async def _begin(self, prepared: Prepared, *, reply: bool) -> Subscribed:
        subscriptions, answer = self._node.subscriptions, prepared.answer
        await subscriptions.reply(prepared, self._here.protocol.encode_subscribed(answer) if reply else [])
        if prepared.state is None:
            await subscriptions.go_live(prepared)
        else:
            self._node.tasks.spawn(self._push(prepared))  # behind messages that the endpoint sends before it waits
        return answer

    async def _push(self, prepared: Prepared) -> None:
        """Push the publications after a state, and go on; a client to which that fails comes back."""
        try:
            await self._node.subscriptions.go_live(prepared)
        except (ConnectionClosed, CommandError):
            pass  # it has gone, or was unsubscribed
        except StoreUnavailable:
            self.connection.end(STORE_AWAY)

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel; harmless without a subscription."""
        await self._node.unsubscribe(self._here, check_name(channel, "channel"))

    async def set_presence(self, channel: str, info: Any) -> None:
        """Change the presence info of this connection in a channel; raises NotAvailable where it is not present."""
        name = self._open_channel(channel)
        if not await set_presence(self._node, self._here.id, name, b"" if info is None else encode_json(info)):
            raise NotAvailable(f"this connection is not present in {name!r}; subscribe with presence=True first")

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str = "",
        ephemeral: bool | None = None,
        but_not: HubConnection | str | None = None,
    ) -> bool:
        """Publish for this client; return False, and send the client an error, when the broker fails.

        The same happens for a message that is not of the channel's type. Handlers (`on_publish`) are not called,
        because messages of an endpoint are the application's own. `ephemeral` and `but_not` are those of `Hub.publish`.
        """
        if self._in_flight is not None:
            await self._in_flight.wait()  # publishes that were handed over come first
        name = self._open_channel(channel)
        try:
            payload = self._payload(name, data)
        except InvalidMessage as error:
            self.tell(error)
            return False
        ephemeral = None if ephemeral is None else flag_from(ephemeral, "ephemeral")
        meta = b"" if but_not is None else PublicationMeta(but_not=connection_id(but_not, "but_not")).encode()
        return await self._publish(name, payload, key, meta, ephemeral)

    def _payload(self, name: str, data: Any) -> tuple[bytes, Format]:
        """Return the encoded data, checked where the channel has a type; raises BadRequest."""
        shape_of = self._node.options.shape_of
        shape = None if shape_of is None else shape_of(name)
        return encode_payload(data) if shape is None else shape.encode(data)

    async def submit(self, channel: str, data: Any, *, key: str = "") -> asyncio.Future[bool]:
        """Begin to publish and go on: many publications wait for the store together, in the order of these calls.

        Await the returned future for the outcome, as `publish` returns it; the client gets an error after a failure in
        any case. Waits while `publishes_in_flight` publications wait for the store. The end of the block waits for all.
        Raises CommandError for a channel name or data that cannot be used, NotPublished when the application is ending.
        """
        node, connection = self._node, self._connection
        if connection is None or get_ident() != self._thread or not self._loop.is_running():
            connection = self._here  # which is the same, and raises: each message would pay for the call
        name = channel if channel and channel == self._named else self._open_channel(channel)
        is_ephemeral, waits = node.is_ephemeral(name), node.broker.waits
        if waits and not node.is_open:
            raise NotPublished("the application is ending")
        try:
            payload = encode_payload(data) if node.options.shape_of is None else self._payload(name, data)
            if is_ephemeral:
                node.publish_ephemeral(name, payload[0], payload[1], key=key, sender=connection.id)
            elif not waits:
                await node.publish(name, *payload, key=key)
            if is_ephemeral or not waits:
                self._kept = self._kept or self._done(is_kept=True)
                return self._kept
        except InvalidMessage as error:
            self.tell(error)
            return self._done(is_kept=False)
        except PublishError as error:
            return self._done(is_kept=self._tell_failed(connection, error))
        outcome: asyncio.Future[bool] = self._loop.create_future()
        await self._publishes().publish(name, *payload, partial(self._settle, connection, outcome), key=key)
        return outcome

    def _done(self, *, is_kept: bool) -> asyncio.Future[bool]:
        """Return an outcome that is known already."""
        outcome: asyncio.Future[bool] = self._loop.create_future()
        outcome.set_result(is_kept)
        return outcome

    async def set(self, channel: str, key: str, value: Any, *, ttl: float = 0.0, expect: int | None = None) -> Entry:
        """Set an entry of a map that is removed when this connection ends. The rest is as in `Hub.set`."""
        name = self._open_channel(channel)
        return await Maps.of(self._node).set(name, key, value, ttl=ttl, expect=offset_from(expect), owner=self._here)

    async def unset(self, channel: str, key: str, *, expect: int | None = None) -> bool:
        """Remove an entry of a map, as `Hub.unset` does."""
        name, _ = self._open_channel(channel), self._here
        return await Maps.of(self._node).unset(name, key, expect=offset_from(expect))

    def _open_channel(self, channel: str) -> str:
        if channel != self._named or not channel:
            self._named = open_channel(channel, self._node.limits.channel_name)
        return self._named

    async def _publish(
        self, channel: str, payload: tuple[bytes, Format], key: str, meta: bytes = b"", ephemeral: bool | None = None
    ) -> bool:
        connection = self._connection
        if connection is None or get_ident() != self._thread or not self._loop.is_running():
            connection = self._here  # which is the same, and raises: each message would pay for the call
        try:
            await self._node.publish(channel, *payload, key=key, meta=meta, ephemeral=ephemeral, sender=connection.id)
        except PublishError as error:
            return self._tell_failed(connection, error)
        return True

    def _tell_failed(self, connection: Connection, error: PublishError) -> bool:
        connection.refuse(kind_of(error), str(error))
        self._node.send(connection, connection.protocol.encode_error(outage(error)))
        return False

    def _settle(self, connection: Connection, outcome: asyncio.Future[bool], error: BaseException | None) -> None:
        """Give the outcome of a publication to the code that waits for it, and tell the client of a failure."""
        is_kept = error is None
        if isinstance(error, PublishError):
            self._tell_failed(connection, error)
            error = None
        if outcome.done():
            return
        if error is None:
            outcome.set_result(is_kept)
        else:
            outcome.set_exception(error)

    # Sending.

    async def send(self, *messages: WireMessage | str | bytes) -> None:
        """Send messages, behind everything that is pending; raises ConnectionClosed after the end."""
        connection = self._here
        if connection.is_closed:
            raise ConnectionClosed(connection.disconnect or connection.ending or NORMAL)
        self._node.send(connection, *[m if isinstance(m, WireMessage) else encode_message(m) for m in messages])
        del messages  # while the client takes them, the link alone holds them
        if connection.link.paused:
            await connection.link.wait_drained()

    async def send_text(self, text: str) -> None:
        """Send one text message."""
        await self.send(encode_message(text))

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary message."""
        await self.send(WireMessage(bytes_from(data), binary=True))

    async def send_json(self, value: Any, *, binary: bool = False) -> None:
        """Send a value as JSON, in a text or binary message."""
        await self.send(WireMessage(encode_json(value), binary))

    def tell(self, error: CommandError) -> None:
        """Answer the client with an error, in its protocol; does nothing when the client has disconnected."""
        connection = self._here
        self._node.send(connection, connection.protocol.encode_error(error))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection (close codes: RFC 6455 section 7.4)."""
        self._here.end(Disconnect(code, reason))

    # Receiving.

    def _waiting(self) -> Connection:
        """Return the connection for its next message; messages to it go out now, or with a push of this turn."""
        connection = self._here
        if not connection.has_messages and not self._node.fanout.is_scheduled:
            connection.link.flush()
        return connection

    async def receive(self) -> str | bytes:
        """Receive the next message: str from a text one, bytes from a binary one."""
        return await self._waiting().receive()

    async def receive_text(self) -> str:
        """Receive the next message as text; raises BadRequest for bytes that are not UTF-8."""
        return _as_text(await self._waiting().receive())

    async def receive_bytes(self) -> bytes:
        """Receive the next message as bytes; text comes as UTF-8."""
        return _as_bytes(await self._waiting().receive())

    @overload
    async def receive_json(self) -> Any: ...

    @overload
    async def receive_json(self, type_: type[T]) -> T: ...

    @overload
    async def receive_json(self, type_: Any) -> Any: ...

    async def receive_json(self, type_: Any = Any) -> Any:
        """Receive the next message as JSON, converted to a type if one is given; raises BadRequest for anything else.

        A type is a pydantic model, or any that msgspec or pydantic knows.
        """
        return self._decoder(type_).decode(await self.receive_bytes())

    def iter_messages(self) -> AsyncIterator[str | bytes]:
        """Iterate over messages as they come until the connection ends.

        A client that leaves counts as connected until its messages are handled, for `leaving_seconds` at most.
        """
        return self._iterate(lambda message: message)

    def iter_text(self) -> AsyncIterator[str]:
        """Iterate over messages as text; other bytes are answered with an error, and the connection stays open."""
        return self._iterate(_as_text)

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Iterate over messages as bytes; text comes as UTF-8."""
        return self._iterate(_as_bytes)

    @overload
    def iter_json(self) -> AsyncIterator[Any]: ...

    @overload
    def iter_json(self, type_: type[T]) -> AsyncIterator[T]: ...

    @overload
    def iter_json(self, type_: Any) -> AsyncIterator[Any]: ...

    def iter_json(self, type_: Any = Any) -> AsyncIterator[Any]:
        """Iterate over messages as JSON, converted as by `receive_json`; others are answered with an error."""
        decode = self._decoder(type_).decode
        return self._iterate(lambda message: decode(_as_bytes(message)))

    async def _iterate(self, read: Callable[[str | bytes], T]) -> AsyncIterator[T]:
        """Iterate over values that a function reads from messages; the client is told of those it cannot read."""
        connection = self._here
        try:
            while True:
                if (message := connection.receive_nowait(handles=True)) is None:
                    if not self._node.fanout.is_scheduled:
                        connection.link.flush()
                    await connection.readable()
                    continue
                try:
                    value = read(message)
                except BadRequest as error:
                    self.tell(error)
                    continue
                yield value
                if self._node.fanout.is_full:
                    await asyncio.sleep(0)
        except ConnectionClosed:
            return

    def _decoder(self, type_: Any) -> JsonDecoder:
        return JsonDecoder(type_, depth=self._node.limits.json_depth)

    async def iter_commands(self) -> AsyncIterator[Any]:
        """Iterate over the commands of the connection's protocol; other messages are answered with an error."""
        async for message in self.iter_messages():
            try:
                commands = self._here.protocol.decode(message)
            except CommandError as error:
                self._node.send(self._here, self._here.protocol.encode_refusal(error, message))
                continue
            for command in commands:
                yield command

    async def wait_closed(self) -> Disconnect:
        """Wait until the connection has ended; messages of the client are ignored meanwhile."""
        return await self._here.wait_closed()


def _as_bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _as_text(message: str | bytes) -> str:
    if isinstance(message, str):
        return message
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise BadRequest("a text message was expected; this binary one is not UTF-8") from None
