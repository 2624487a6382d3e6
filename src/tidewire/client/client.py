"""A Python client of the Centrifuge protocol (JSON over a WebSocket) that reconnects by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from tidewire.client.backoff import delay
from tidewire.client.client_connection import ClientConnection
from tidewire.client.client_subscription import GetState, OnState, Subscription
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
    Unrecoverable,
)
from tidewire.messages import Position
from tidewire.protocols.centrifuge import codes, messages
from tidewire.protocols.centrifuge.messages import EMPTY, Command, Push, Reply
from tidewire.protocols.shape import Shape

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
        self._subscriptions: dict[str, Subscription] = {}
        #: Channels that the server chose for this client.
        self._chosen: set[str] = set()

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

        `on_state` is given what the channel holds, where the application behind the server says that, before the
        publications after it. `get_state` loads it yourself, and returns the position from which to go on: at first,
        and whenever what was missed cannot be recovered. A channel that the server chose for this client (a personal
        one) is subscribed to in the same way. Raises TidewireError when this client has subscribed to it already.
        """
        if channel in self._subscriptions:
            raise TidewireError(
                f"this client has subscribed to {channel!r} already; iterate over that subscription, or close it first"
            )
        subscription = Subscription(self, channel, since=since, token=token, get_token=get_token, data=data)
        subscription.join_state(get_state, on_state)
        if self._connection.error is not None:
            subscription.end(self._connection.error)
            return subscription
        self._subscriptions[channel] = subscription
        self.request_subscribe(subscription)
        return subscription

    async def publish(self, channel: str, data: Any) -> None:
        """Publish JSON; returns when the server keeps it.

        Raises NotPublished (surely not kept), PublishUnconfirmed (perhaps kept: no reply came, or the server's store
        failed), CommandError when the server refuses, ConnectionClosed when the client has ended.
        """
        try:
            await self._ask(Command(publish=messages.PublishRequest(channel, encoded(data))))
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

    # Called by subscriptions (SubscriptionClient).

    def request_subscribe(self, subscription: Subscription) -> None:
        """Subscribe now, or as soon as the client is connected."""
        if not self._connection.is_ready.is_set():
            return
        if subscription.channel in self._chosen:
            self._connection.drop()  # only a connect recovers what the server chose
        else:
            self._connection.spawn(self._subscribe(subscription))

    def request_unsubscribe(self, subscription: Subscription, *, is_over: bool) -> None:
        """Unsubscribe, for good or until the subscription asks again."""
        channel = subscription.channel
        if is_over and self._subscriptions.get(channel) is subscription:
            del self._subscriptions[channel]
        if subscription.is_asked and channel not in self._chosen:
            subscription.is_asked = False
            self._connection.call(Command(unsubscribe=messages.UnsubscribeRequest(channel)), lambda reply: None)

    async def _subscribe(self, subscription: Subscription) -> None:
        is_ready = await self._has_token(subscription) and await self._has_state(subscription)
        if is_ready and subscription.is_wanted and not subscription.is_asked:
            self._ask_for(subscription)

    async def _has_token(self, subscription: Subscription) -> bool:
        """Fetch a subscription's token if it needs one; return whether it may subscribe now."""
        if subscription.get_token is None or subscription.token:
            return True
        try:
            subscription.token = await subscription.get_token(subscription.channel)
        except TidewireError as error:
            self._drop(subscription, error)
            return False
        except Exception as error:
            logger.warning("no token for %r (%s); trying again", subscription.channel, type(error).__name__)
            self._subscribe_later(subscription)
            return False
        if not subscription.token:
            # sent on, an empty one would end the whole connection as a bad request
            self.request_unsubscribe(subscription, is_over=True)
            self._drop(subscription, PermissionDenied(f"get_token returned no token for {subscription.channel!r}"))
            return False
        return True

    async def _has_state(self, subscription: Subscription) -> bool:
        """Ask the application to load its state if it has no position; return whether the subscription has one now."""
        try:
            await subscription.load_state()
        except TidewireError as error:
            self._drop(subscription, error)
        except Exception as error:
            logger.warning("no state for %r (%s); trying again", subscription.channel, type(error).__name__)
            self._subscribe_later(subscription)
        else:
            return True
        return False

    def _ask_for(self, subscription: Subscription) -> None:
        command = Command(subscribe=subscription.request())
        self._connection.call(command, lambda reply: self._subscribed(subscription, reply))

    def _subscribed(self, subscription: Subscription, reply: Reply | None) -> None:
        if reply is None or not subscription.is_asked:
            return
        if reply.subscribe is not None:
            subscription.subscribed(reply.subscribe)
            self._refresh_subscription_in(subscription, reply.subscribe.ttl)
            return
        if subscription.channel in self._chosen:
            return  # the server has subscribed it by itself
        error = error_from(reply)
        subscription.is_asked = False
        if isinstance(error, TokenExpired) and subscription.get_token is not None:
            subscription.token = ""
        elif isinstance(error, Unrecoverable) and subscription.get_state is not None:
            subscription.forget_position()
        elif not error.temporary:
            self._drop(subscription, error)
            return
        self._subscribe_later(subscription)

    def _subscribe_later(self, subscription: Subscription) -> None:
        subscription.attempt += 1
        self._connection.later(delay(subscription.attempt), lambda: self.request_subscribe(subscription))

    def _drop(self, subscription: Subscription, error: TidewireError) -> None:
        self._subscriptions.pop(subscription.channel, None)
        subscription.end(error)

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
        if not self._token:
            raise PermissionDenied("get_token returned no token; raise PermissionDenied when there is none to be had")
        return True

    def opened(self) -> None:
        """Send the connect command and, in the same frame, all subscribes that need no token first."""
        places = {
            channel: self._subscriptions[channel].request() for channel in self._chosen & self._subscriptions.keys()
        }
        request = messages.ConnectRequest(self._token, self._data, places, name="tidewire.py")
        self._connection.call(Command(connect=request), self._connected)
        for channel, subscription in self._subscriptions.items():
            if channel in self._chosen or not subscription.is_wanted:
                continue
            if subscription.is_ready:
                self._ask_for(subscription)
            else:
                self._connection.spawn(self._subscribe(subscription))

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
        for channel in self._chosen - answer.subs.keys():
            self._unchosen(channel, codes.SERVER_UNSUBSCRIBE.code, codes.SERVER_UNSUBSCRIBE.reason)
        for channel, result in answer.subs.items():
            self._choose(channel, result)
        self._connection.ready()
        for subscription in tuple(self._subscriptions.values()):
            if not subscription.is_asked and subscription.channel not in self._chosen and subscription.is_wanted:
                self.request_subscribe(subscription)

    def _refused(self, error: CommandError) -> None:
        if isinstance(error, TokenExpired) and self._get_token is not None:
            self._token = ""
        elif not error.temporary:
            raise error
        self._connection.drop()

    def lost(self, code: int) -> None:
        """Mark all subscriptions to be subscribed on the next WebSocket."""
        for subscription in self._subscriptions.values():
            subscription.is_asked = False
        if code == codes.STATE_INVALIDATED.code:
            self._token = "" if self._get_token is not None else self._token
            for subscription in self._subscriptions.values():
                subscription.invalidate()

    def ended(self, error: TidewireError | None) -> None:
        """End every subscription."""
        for subscription in self._subscriptions.values():
            if error is None:
                subscription.stop()
            else:
                subscription.end(error)

    def pushed(self, push: Push) -> None:
        """Hand a push to its subscription."""
        subscription = self._subscriptions.get(push.channel)
        if push.pub is not None and subscription is not None:
            subscription.published(push.pub)
        elif push.unsubscribe is not None:
            self._unsubscribed(push.channel, push.unsubscribe)
        elif push.subscribe is not None:
            begun = push.subscribe
            result = messages.SubscribeResult(
                recoverable=begun.recoverable, epoch=begun.epoch, offset=begun.offset, positioned=begun.positioned
            )
            self._choose(push.channel, result)
        elif push.refresh is not None:
            self._refresh_in(push.refresh.ttl)

    def _choose(self, channel: str, result: messages.SubscribeResult) -> None:
        self._chosen.add(channel)
        if channel in self._subscriptions:
            self._subscriptions[channel].subscribed(result)

    def _unchosen(self, channel: str, code: int, reason: str) -> None:
        self._chosen.discard(channel)
        if channel in self._subscriptions:
            self._drop(
                self._subscriptions[channel],
                PermissionDenied(f"the server ended the subscription to {channel!r} ({code}: {reason})"),
            )

    def _unsubscribed(self, channel: str, push: messages.Unsubscribe) -> None:
        subscription = self._subscriptions.get(channel)
        if push.code < codes.INSUFFICIENT.code or channel in self._chosen:
            self._unchosen(channel, push.code, push.reason)
        elif subscription is not None:
            if push.code == codes.INVALIDATED.code:
                subscription.invalidate()
            subscription.is_asked = False
            self._subscribe_later(subscription)

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

    def _refresh_subscription_in(self, subscription: Subscription, seconds: int) -> None:
        if seconds and subscription.get_token is not None:
            self._connection.later(seconds, lambda: self._connection.spawn(self._refresh_subscription(subscription)))

    async def _refresh_subscription(self, subscription: Subscription) -> None:
        subscription.token = ""
        if not await self._has_token(subscription) or not subscription.is_asked:
            return
        request = messages.SubRefreshRequest(subscription.channel, subscription.token)
        reply = await self._connection.ask(Command(sub_refresh=request))
        if reply is not None and reply.sub_refresh is not None:
            self._refresh_subscription_in(subscription, reply.sub_refresh.ttl)


class _Unsent(TemporaryFailure):
    """Raised for a command that was not sent."""
