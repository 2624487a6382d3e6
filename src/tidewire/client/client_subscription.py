"""One followed channel of a client: what has come and waits for the application, and where it was left."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any
from typing import Protocol as TypingProtocol

from tidewire.client.values import ChannelPublication, encoded, publication_from
from tidewire.errors import TidewireError, Unrecoverable
from tidewire.messages import Position
from tidewire.protocols.centrifuge.messages import Publication, SubscribeRequest, SubscribeResult

__all__ = ("INVALID", "WAITING", "Subscription")

#: Publications of a channel that wait for the application.
WAITING = 1_000
#: What is recovered from where positions mean nothing any more: nothing, and the server says so.
INVALID = Position(0, "_")


class Follower(TypingProtocol):
    """What a subscription asks of its client."""

    def follow(self, subscription: Subscription) -> None:
        """Subscribe, now or as soon as it is connected."""

    def unfollow(self, subscription: Subscription, *, is_over: bool) -> None:
        """Unsubscribe, for a while or for good."""


class Subscription:
    """A followed channel: `async for publication in client.subscribe("room:1")`.

    What was missed while the connection was away comes first. Where that is not possible the iteration raises
    Unrecoverable once: load what you need, then iterate on. It raises what the server refuses as CommandError, and
    ConnectionClosed when the server does not want this client back. An application that falls behind by a thousand
    publications is given the rest from history as it catches up.
    """

    def __init__(
        self,
        client: Follower,
        channel: str,
        *,
        since: Position | None,
        token: str,
        get_token: Callable[[str], Awaitable[str]] | None,
        data: Any,
    ) -> None:
        self.channel = channel
        self.token = token
        self.get_token = get_token
        #: The position of the last publication that the application was given.
        self.position = since
        #: How often in a row the server could not take the subscribe.
        self.attempt = 0
        #: It is subscribed on this connection, or asks for it.
        self.is_asked = False
        self._client = client
        self._data = encoded(data)
        #: Up to where everything has come.
        self._reached = since
        self._waiting: deque[ChannelPublication | TidewireError] = deque()
        self._has_overflowed = False
        self._news = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._ended: TidewireError | None = None
        self._is_closed = False

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> ChannelPublication:
        while not self._waiting:
            if self._ended is not None:
                raise self._ended
            if self._is_closed:
                raise StopAsyncIteration
            if self._has_overflowed:
                self._has_overflowed = False
                self._client.follow(self)
            self._news.clear()
            await self._news.wait()
        item = self._waiting.popleft()
        if isinstance(item, TidewireError):
            raise item
        if item.position is not None:
            self.position = item.position
        return item

    async def wait_subscribed(self) -> None:
        """Wait until what is published from now on will come; raises as the iteration does."""
        await self._subscribed.wait()
        if self._ended is not None:
            raise self._ended

    def close(self) -> None:
        """Follow the channel no longer; what has come can still be iterated."""
        if not self._is_closed and self._ended is None:
            self._client.unfollow(self, is_over=True)
        self.stop()

    # What the client calls.

    @property
    def may_follow(self) -> bool:
        """It is to be followed now: not over, and not behind."""
        return not (self._is_closed or self._has_overflowed or self._ended is not None)

    def request(self) -> SubscribeRequest:
        """Return what asks the server for this channel, from where it was left."""
        self.is_asked = True
        reached = self._reached
        if reached is None:
            return SubscribeRequest(self.channel, self.token, data=self._data)
        return SubscribeRequest(
            self.channel, self.token, recover=True, epoch=reached.epoch, offset=reached.offset, data=self._data
        )

    def subscribed(self, answer: SubscribeResult) -> None:
        """Take the server's answer, with what was missed."""
        self.attempt = 0
        if answer.was_recovering and not answer.recovered:
            self._show(Unrecoverable(f"what was missed of {self.channel!r} is not there any more; load it anew"))
        is_kept = answer.recoverable or answer.positioned
        self._reached = Position(answer.offset, answer.epoch) if is_kept else None
        if not answer.recovered:
            self.position = self._reached
        for publication in answer.publications:
            self.published(publication)
        self._subscribed.set()

    def published(self, publication: Publication) -> None:
        """Take a publication; one that is too many waits in the channel's history."""
        if self._has_overflowed:
            return
        if len(self._waiting) >= WAITING:
            self._overflow()
            return
        epoch = self._reached.epoch if self._reached is not None else ""
        self._show(publication_from(self.channel, publication, epoch))
        if self._reached is not None and publication.offset:
            self._reached = Position(publication.offset, epoch)

    def _overflow(self) -> None:
        self._has_overflowed = True
        self._client.unfollow(self, is_over=False)
        if self._reached is None:
            self._show(Unrecoverable(f"{self.channel!r} keeps no history, and more came than was taken; load it anew"))

    def invalidate(self) -> None:
        """Forget the position: the server says that it means nothing any more."""
        if self.get_token is not None:
            self.token = ""
        if self._reached is not None:
            self._reached = INVALID

    def end(self, error: TidewireError) -> None:
        """End for good; the iteration raises this behind what has come."""
        self._ended = error
        self._wake()

    def stop(self) -> None:
        """End without an error."""
        self._is_closed = True
        self._wake()

    def _show(self, item: ChannelPublication | TidewireError) -> None:
        self._waiting.append(item)
        self._news.set()

    def _wake(self) -> None:
        self._news.set()
        self._subscribed.set()
