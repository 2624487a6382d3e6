"""The subscriptions of one client: each is asked for when it has its token and its state, and again after a loss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping

from tidewire.client.backoff import delay
from tidewire.client.client_connection import ClientConnection
from tidewire.client.client_subscription import Subscription
from tidewire.client.values import error_from
from tidewire.errors import PermissionDenied, TidewireError, TokenExpired, Unrecoverable
from tidewire.protocols.centrifuge import codes, messages
from tidewire.protocols.centrifuge.messages import Command, Push, Reply

__all__ = ("ClientSubscriptions",)

logger = logging.getLogger("tidewire.client")


class ClientSubscriptions:
    """Knows each subscription by its channel, and the channels that the server chose for this client."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._by_channel: dict[str, Subscription] = {}
        self._chosen: set[str] = set()

    def __iter__(self) -> Iterator[Subscription]:
        return iter(tuple(self._by_channel.values()))

    def get(self, channel: str) -> Subscription | None:
        """Return the subscription to a channel."""
        return self._by_channel.get(channel)

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, and subscribe."""
        self._by_channel[subscription.channel] = subscription
        self.request_subscribe(subscription)

    def request_subscribe(self, subscription: Subscription) -> None:
        """Subscribe now, or as soon as the client is connected."""
        if not self._connection.is_ready.is_set() or not subscription.is_wanted:
            return
        if subscription.channel in self._chosen:
            self._connection.drop()  # only a connect recovers the channels that the server chose
        else:
            self._connection.spawn(self._subscribe(subscription))

    def request_unsubscribe(self, subscription: Subscription, *, is_over: bool) -> None:
        """Unsubscribe, for good or until the subscription asks again."""
        channel = subscription.channel
        if is_over and self._by_channel.get(channel) is subscription:
            del self._by_channel[channel]
        if subscription.is_asked and channel not in self._chosen:
            subscription.is_asked = False
            self._connection.call(Command(unsubscribe=messages.UnsubscribeRequest(channel)), lambda reply: None)

    # Asking the server.

    async def _subscribe(self, subscription: Subscription) -> None:
        if subscription.preparing is not None:
            return  # another one asks: the state would be loaded twice, and the position of the later one count
        task = subscription.preparing = asyncio.current_task()
        try:
            is_ready = await self._has_token(subscription) and await self._has_state(subscription)
        finally:
            if subscription.preparing is task:  # not one that takes its time to end, on a WebSocket that is lost
                subscription.preparing = None
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
        if not isinstance(subscription.token, str) or not subscription.token:
            # sent on, it would end the whole connection as a bad request
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

    def _ask_for(self, subscription: Subscription, request: messages.SubscribeRequest | None = None) -> None:
        command = Command(subscribe=request or subscription.request())
        self._connection.call(command, lambda reply: self._subscribed(subscription, reply))

    def _subscribed(self, subscription: Subscription, reply: Reply | None) -> None:
        if reply is None or not subscription.is_asked:
            return
        if reply.subscribe is not None:
            more = subscription.next_page(reply.subscribe)
            if more is not None:
                self._ask_for(subscription, more)
                return
            subscription.subscribed(reply.subscribe)
            self._refresh_in(subscription, reply.subscribe.ttl)
            return
        if subscription.channel in self._chosen:
            return  # the server has subscribed it by itself
        error = error_from(reply)
        subscription.is_asked = False
        if isinstance(error, TokenExpired) and subscription.get_token is not None:
            subscription.token = ""
        elif isinstance(error, Unrecoverable) and subscription.begins_anew:
            subscription.forget_position()
        elif not error.temporary:
            self._drop(subscription, error)
            return
        self._subscribe_later(subscription)

    def _subscribe_later(self, subscription: Subscription) -> None:
        subscription.attempt += 1
        self._connection.later(delay(subscription.attempt), lambda: self.request_subscribe(subscription))

    def _drop(self, subscription: Subscription, error: TidewireError) -> None:
        if self._by_channel.get(subscription.channel) is subscription:  # not a later one: this may have been closed
            del self._by_channel[subscription.channel]
        subscription.end(error)

    def _refresh_in(self, subscription: Subscription, seconds: int) -> None:
        if seconds and subscription.get_token is not None:
            self._connection.later(seconds, lambda: self._connection.spawn(self._refresh(subscription)))

    async def _refresh(self, subscription: Subscription) -> None:
        subscription.token = ""
        if not await self._has_token(subscription) or not subscription.is_asked:
            return
        request = messages.SubRefreshRequest(subscription.channel, subscription.token)
        reply = await self._connection.ask(Command(sub_refresh=request))
        if reply is not None and reply.sub_refresh is not None:
            self._refresh_in(subscription, reply.sub_refresh.ttl)

    # The connection opens, and is lost.

    def places(self) -> dict[str, messages.SubscribeRequest]:
        """Return the positions from which to go on in the channels that the server chose."""
        return {channel: self._by_channel[channel].request() for channel in self._chosen & self._by_channel.keys()}

    def opened(self) -> None:
        """Ask for all that need no token first, in the frame of the connect command; fetch the tokens of the others."""
        for subscription in self:
            if subscription.channel in self._chosen or not subscription.is_wanted:
                continue
            if subscription.is_ready:
                self._ask_for(subscription)
            else:
                self._connection.spawn(self._subscribe(subscription))

    def chosen(self, subs: Mapping[str, messages.SubscribeResult]) -> None:
        """Take the channels that the server chose, in place of those before."""
        for channel in self._chosen - subs.keys():
            self._unchosen(channel, codes.SERVER_UNSUBSCRIBE.code, codes.SERVER_UNSUBSCRIBE.reason)
        for channel, result in subs.items():
            self._choose(channel, result)

    def connected(self) -> None:
        """Ask for the subscriptions that were not asked for when the connection opened."""
        for subscription in self:
            if not subscription.is_asked and subscription.channel not in self._chosen and subscription.is_wanted:
                self.request_subscribe(subscription)

    def lost(self, code: int) -> None:
        """Mark all to be subscribed on the next WebSocket."""
        for subscription in self:
            subscription.is_asked = False
            subscription.preparing = None
            if code == codes.STATE_INVALIDATED.code:
                subscription.invalidate()

    def ended(self, error: TidewireError | None) -> None:
        """End all."""
        for subscription in self:
            if error is None:
                subscription.stop()
            else:
                subscription.end(error)

    # Pushes.

    def pushed(self, push: Push) -> None:
        """Hand a push to its subscription."""
        subscription = self._by_channel.get(push.channel)
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

    def _choose(self, channel: str, result: messages.SubscribeResult) -> None:
        self._chosen.add(channel)
        if channel in self._by_channel:
            self._by_channel[channel].subscribed(result)

    def _unchosen(self, channel: str, code: int, reason: str) -> None:
        self._chosen.discard(channel)
        if channel in self._by_channel:
            self._drop(
                self._by_channel[channel],
                PermissionDenied(f"the server ended the subscription to {channel!r} ({code}: {reason})"),
            )

    def _unsubscribed(self, channel: str, push: messages.Unsubscribe) -> None:
        subscription = self._by_channel.get(channel)
        if push.code < codes.INSUFFICIENT.code or channel in self._chosen:
            self._unchosen(channel, push.code, push.reason)
        elif subscription is not None:
            if push.code == codes.INVALIDATED.code:
                subscription.invalidate()
            subscription.is_asked = False
            self._subscribe_later(subscription)
