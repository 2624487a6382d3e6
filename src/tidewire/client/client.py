"""A Python client of the Centrifuge protocol (JSON over a WebSocket) that reconnects by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from tidewire.client.client_connection import ClientConnection
from tidewire.client.client_subscription import GetState, OnState, Subscription
from tidewire.client.client_subscriptions import ClientSubscriptions
from tidewire.client.map_subscription import MapSubscription
from tidewire.client.values import (
    ChannelHistory,
    ChannelMember,
    decoded,
    encoded,
    error_from,
    member_from,
    publication_from,
)
from tidewire.errors import (
    CommandError,
    NotPublished,
    PermissionDenied,
    PublishUnconfirmed,
    TemporaryFailure,
    TidewireError,
    TokenExpired,
)
from tidewire.messages import Position
from tidewire.protocols.centrifuge import codes, messages
from tidewire.protocols.centrifuge.messages import EMPTY, Command, Push, Reply
from tidewire.protocols.message_shape import Shape
from tidewire.protocols.payload import encode_json

__all__ = ("Client",)

logger = logging.getLogger("tidewire.client")

T = TypeVar("T")

#: Seconds beyond the server's ping interval after which the server counts as gone.
_PING_GRACE = 10.0
#: Seconds before a refresh is tried again: the server waits some 25 beyond the token's end.
_RETRY_SECONDS = 5
#: Seconds without a ping, where the server sends none.
_FOREVER = 10.0**9


class Client:
    """A connection to a tidewire or Centrifugo server: `async with Client("ws://…/connection/websocket") as client`.

    `token` identifies the user; `get_token` fetches a token, at first and whenever one has expired, and raises
    PermissionDenied when the user may not have one. After a lost connection the client reconnects with full jitter, and
    every subscription continues where it was. `seconds` bounds the time for a reply, waiting for a connection included.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        get_token: Callable[[], Awaitable[str]] | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 10.0,
    ) -> None:
        self._token = token
        self._get_token = get_token
        self._data = encoded(data)
        self._seconds = seconds
        self._connection = ClientConnection(url, headers or {}, self, seconds)
        self._subscriptions = ClientSubscriptions(self._connection)

    async def __aenter__(self) -> Client:
        self._connection.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client; harmless when repeated."""
        await self._connection.aclose()

    # Called by the application.

    def subscribe(
        self,
        channel: str,
        *,
        since: Position | None = None,
        token: str = "",
        get_token: Callable[[str], Awaitable[str]] | None = None,
        data: Any = None,
        get_state: GetState | None = None,
        on_state: OnState | None = None,
    ) -> Subscription:
        """Subscribe to a channel, from a position on if one is given; iterate over the returned subscription.

        `on_state` is given the channel's state, where the application behind the server has one, before the
        publications after it. With `get_state` you load the state yourself, and return the position from which to go
        on: at first, and whenever missed publications cannot be recovered. A channel that the server chose for this
        client (a personal one) is subscribed to in the same way. Raises TidewireError when this client has subscribed
        to it already.
        """
        subscription = Subscription(
            self._subscriptions, channel, since=since, token=token, get_token=get_token, data=data
        )
        subscription.join_state(get_state, on_state)
        self._begin(subscription)
        return subscription

    def map(
        self,
        channel: str,
        *,
        token: str = "",
        get_token: Callable[[str], Awaitable[str]] | None = None,
        data: Any = None,
    ) -> MapSubscription:
        """Subscribe to a channel that is a map: `async for change in client.map("board:1")`.

        Raises TidewireError when this client has subscribed to the channel already.
        """
        subscription = MapSubscription(
            self._subscriptions, channel, token=token, get_token=get_token, data=data, publish=self._publish
        )
        self._begin(subscription)
        return subscription

    def _begin(self, subscription: Subscription) -> None:
        channel = subscription.channel
        if self._subscriptions.get(channel) is not None:
            raise TidewireError(
                f"this client has subscribed to {channel!r} already; iterate over that subscription, or close it first"
            )
        if self._connection.error is not None:
            subscription.end(self._connection.error)
        else:
            self._subscriptions.add(subscription)

    async def publish(self, channel: str, data: Any) -> None:
        """Publish JSON, None as null; returns when the server keeps it.

        Raises NotPublished (surely not kept), PublishUnconfirmed (perhaps kept: no reply came, or the server's store
        failed), CommandError when the server refuses, ConnectionClosed when the client has ended.
        """
        await self._publish(messages.PublishRequest(channel, messages.raw(encode_json(data))))

    async def _publish(self, request: messages.PublishRequest) -> None:
        try:
            await self._ask(Command(publish=request))
        except _Unsent as error:
            raise NotPublished(str(error)) from None
        except TemporaryFailure as error:  # unanswered; or the server's store failed, before or after it was kept
            raise PublishUnconfirmed(str(error)) from None

    async def presence(self, channel: str) -> list[ChannelMember]:
        """Return the members of a channel, one for each connection. Raises CommandError."""
        reply = await self._ask(Command(presence=messages.PresenceRequest(channel)))
        return [] if reply.presence is None else [member_from(info) for info in reply.presence.presence.values()]

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        """Return the numbers of connections and of users in a channel. Raises CommandError."""
        stats = (await self._ask(Command(presence_stats=messages.PresenceStatsRequest(channel)))).presence_stats
        return (0, 0) if stats is None else (stats.num_clients, stats.num_users)

    async def history(
        self, channel: str, *, limit: int = -1, since: Position | None = None, reverse: bool = False
    ) -> ChannelHistory:
        """Return a channel's history: at most `limit` publications (-1: the server's limit, 0: the position only)."""
        place = None if since is None else messages.StreamPosition(since.offset, since.epoch)
        reply = await self._ask(Command(history=messages.HistoryRequest(channel, limit, place, reverse)))
        found = reply.history or messages.HistoryResult([], "", 0)
        publications = tuple(publication_from(channel, publication, found.epoch) for publication in found.publications)
        return ChannelHistory(publications, Position(found.offset, found.epoch))

    @overload
    async def rpc(self, method: str, data: Any = None) -> Any: ...

    @overload
    async def rpc(self, method: str, data: Any, type_: type[T]) -> T: ...

    @overload
    async def rpc(self, method: str, data: Any, type_: Any) -> Any: ...

    async def rpc(self, method: str, data: Any = None, type_: Any = None) -> Any:
        """Call a method of the application behind the server and return its result, of a type if one is given.

        Raises CommandError; InvalidMessage for arguments that do not fit, and for a result of another type.
        """
        shape = None if type_ is None else Shape(type_)
        reply = await self._ask(Command(rpc=messages.RpcRequest(encoded(data), method)))
        answer = EMPTY if reply.rpc is None else reply.rpc.data
        return decoded(answer) if shape is None else shape.decode(bytes(answer) or b"null")

    async def send(self, data: Any) -> None:
        """Send a message to the application; it has no reply."""
        await self._wait_connected()
        self._connection.write(Command(send=messages.SendRequest(encoded(data))))

    async def _ask(self, command: Command) -> Reply:
        await self._wait_connected()
        reply = await self._connection.ask(command)
        if reply is None:
            raise TemporaryFailure("the answer did not come: the connection was lost, or it took too long")
        if reply.error is not None:
            raise error_from(reply)
        return reply

    async def _wait_connected(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._connection.is_ready.wait()
        except TimeoutError:
            raise _Unsent(f"not connected within {self._seconds:g} s; is the server there?") from None
        if self._connection.error is not None:
            raise self._connection.error

    # Called by the connection (ConnectionHandler).

    async def prepare(self) -> bool:
        """Fetch a token if one is needed; return False to try again later."""
        if self._get_token is None or self._token:
            return True
        try:
            self._token = await self._get_token()
        except TidewireError:
            raise
        except Exception as error:
            logger.warning("no token (%s); trying again", type(error).__name__)
            return False
        if not isinstance(self._token, str) or not self._token:
            raise PermissionDenied("get_token returned no token; raise PermissionDenied if the user may not have one")
        return True

    def opened(self) -> None:
        """Send the connect command and, in the same frame, all subscribes that need no token first."""
        request = messages.ConnectRequest(self._token, self._data, self._subscriptions.places(), name="tidewire.py")
        self._connection.call(Command(connect=request), self._connected)
        self._subscriptions.opened()

    def _connected(self, reply: Reply | None) -> None:
        if reply is None:
            return
        answer = reply.connect
        if answer is None:
            self._refused(error_from(reply))
            return
        self._connection.answers_pings = answer.pong
        self._connection.silence_limit = answer.ping + _PING_GRACE if answer.ping else _FOREVER
        self._refresh_in(answer.ttl)
        self._subscriptions.chosen(answer.subs)
        self._connection.ready()
        self._subscriptions.connected()

    def _refused(self, error: CommandError) -> None:
        if isinstance(error, TokenExpired) and self._get_token is not None:
            self._token = ""
        elif not error.temporary:
            raise error
        self._connection.drop()

    def lost(self, code: int) -> None:
        """Mark all subscriptions to be subscribed on the next WebSocket."""
        self._subscriptions.lost(code)
        if code == codes.STATE_INVALIDATED.code and self._get_token is not None:
            self._token = ""

    def ended(self, error: TidewireError | None) -> None:
        """End every subscription."""
        self._subscriptions.ended(error)

    def pushed(self, push: Push) -> None:
        """Hand a push to its subscription."""
        if push.refresh is not None:
            self._refresh_in(push.refresh.ttl)
        else:
            self._subscriptions.pushed(push)

    # Tokens that end.

    def _refresh_in(self, seconds: int) -> None:
        if seconds and self._get_token is not None:
            self._connection.later(seconds, lambda: self._connection.spawn(self._refresh()))

    async def _refresh(self) -> None:
        self._token = ""
        try:
            is_there = await self.prepare()
        except TidewireError as error:
            logger.warning("no further token (%s); the connection ends with the last one", type(error).__name__)
            return
        reply = await self._connection.ask(Command(refresh=messages.RefreshRequest(self._token))) if is_there else None
        self._refresh_in(reply.refresh.ttl if reply is not None and reply.refresh is not None else _RETRY_SECONDS)


class _Unsent(TemporaryFailure):
    """Raised for a command that was not sent."""
