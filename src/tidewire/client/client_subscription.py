"""A subscription of a client: its publications that wait for the application, and its position."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.client.client_frames import Unreadable
from tidewire.client.values import ChannelPublication, decoded, encoded, publication_from
from tidewire.errors import BadRequest, TidewireError, Unrecoverable
from tidewire.messages import Position
from tidewire.protocols.centrifuge.messages import Publication, SubscribeRequest, SubscribeResult

__all__ = ("INVALID", "WAITING", "GetState", "OnState", "Subscription")

#: Publications of a channel that wait for the application.
WAITING = 1_000
#: A position that no channel has: the server answers that nothing could be recovered.
INVALID = Position(0, "_")


#: Loads the state of a channel, and returns the position from which to go on.
GetState = Callable[[str], Awaitable[Position]]
#: Takes the state of a channel that the server gives.
OnState = Callable[[Any], Awaitable[None] | None]
#: A flag of a subscribe request: answer error 112 instead of `recovered: false`.
_ALL_OR_NOTHING = 2


class _State(msgspec.Struct, frozen=True):
    """The state of a channel at a position, as the server gives it."""

    data: Any
    position: Position | None


class SubscriptionClient(TypingProtocol):
    """The methods of a client that a subscription calls."""

    def request_subscribe(self, subscription: Subscription) -> None:
        """Subscribe now, or as soon as the client is connected."""

    def request_unsubscribe(self, subscription: Subscription, *, is_over: bool) -> None:
        """Unsubscribe, for good or until the subscription asks again."""


class Subscription:
    """A subscription to a channel: `async for publication in client.subscribe("room:1")`.

    Publications that were missed during a lost connection come first. If they cannot be recovered, the iteration raises
    Unrecoverable once: load the data that you need, then iterate on. A refusal of the server is raised as CommandError,
    and ConnectionClosed means that the client has ended. When the application falls behind by a thousand publications,
    the rest is read from history as it catches up.
    """

    def __init__(
        self,
        client: SubscriptionClient,
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
        #: Failed attempts to subscribe in a row.
        self.attempt = 0
        #: The subscribe was sent on this WebSocket.
        self.is_asked = False
        #: The task that fetches its token and its state, for a subscribe on this WebSocket.
        self.preparing: asyncio.Task[None] | None = None
        self._client = client
        self._data = encoded(data)
        #: The position up to which all publications have come.
        self._reached = since
        self._waiting: deque[ChannelPublication | TidewireError | _State] = deque()
        self.get_state: GetState | None = None
        self._on_state: OnState | None = None
        self._has_overflowed = False
        #: The last subscribe was answered; a publication that comes before belongs to an earlier subscribe.
        self._is_answered = False
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
        while True:
            item = await self._next()
            if isinstance(item, TidewireError):
                raise item
            self.position = item.position or self.position
            if isinstance(item, ChannelPublication):
                return item
            assert self._on_state is not None
            taken = self._on_state(item.data)
            if taken is not None:
                await taken

    async def _next(self) -> ChannelPublication | TidewireError | _State:
        while not self._waiting:
            if self._ended is not None:
                raise self._ended
            if self._is_closed:
                raise StopAsyncIteration
            if self._has_overflowed:
                self._has_overflowed = False
                self._client.request_subscribe(self)
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    async def wait_subscribed(self) -> None:
        """Wait until the server has confirmed the subscription; raises as the iteration does."""
        await self._subscribed.wait()
        if self._ended is not None:
            raise self._ended

    def close(self) -> None:
        """Unsubscribe; publications that have come can still be iterated."""
        if not self._is_closed and self._ended is None:
            self._client.request_unsubscribe(self, is_over=True)
        self.stop()

    # Called by the client.

    @property
    def is_wanted(self) -> bool:
        """Whether the client should subscribe now: the subscription has not ended and is not behind."""
        return not (self._is_closed or self._has_overflowed or self._ended is not None)

    def join_state(self, get_state: GetState | None, on_state: OnState | None) -> None:
        """Join the state that the application or the server has with the channel."""
        self.get_state, self._on_state = get_state, on_state

    @property
    def is_ready(self) -> bool:
        """Whether nothing has to be fetched before the subscribe."""
        has_state = self.get_state is None or self._reached is not None
        return has_state and (self.get_token is None or bool(self.token))

    async def load_state(self) -> None:
        """Ask the application to load its state, if there is no position."""
        if self.get_state is not None and self._reached is None:
            self._waiting.clear()  # a state that is loaded now has them: behind it they would undo what is newer
            self._reached = self.position = await self.get_state(self.channel)

    def forget_position(self) -> None:
        """Load the state again before the next subscribe, because missed publications cannot be recovered."""
        self._reached = None

    def request(self) -> SubscribeRequest:
        """Return the subscribe request, with the position to recover from."""
        self.is_asked = True
        self._is_answered = False
        reached = self._reached
        if reached is None:
            return SubscribeRequest(self.channel, self.token, recoverable=True, data=self._data)
        return SubscribeRequest(
            self.channel,
            self.token,
            recoverable=True,
            recover=True,
            epoch=reached.epoch,
            offset=reached.offset,
            data=self._data,
            flag=0 if self.get_state is None else _ALL_OR_NOTHING,
        )

    @property
    def begins_anew(self) -> bool:
        """Whether the subscription goes on by itself when missed publications cannot be recovered."""
        return self.get_state is not None

    def next_page(self, answer: SubscribeResult) -> SubscribeRequest | None:
        """Take a page of those that come before the reply itself, and return the request for the next page."""
        return None

    def subscribed(self, answer: SubscribeResult) -> None:
        """Take the server's reply, with the publications that it recovered."""
        self.attempt = 0
        self._is_answered = True
        if answer.was_recovering and not answer.recovered:
            self._show(Unrecoverable(f"missed publications of {self.channel!r} are not kept any more; load them anew"))
        is_kept = answer.recoverable or answer.positioned
        self._reached = Position(answer.offset, answer.epoch) if is_kept else None
        if not answer.recovered:
            self.position = self._reached
            if self._on_state is not None and bytes(answer.data):
                self._take_state(answer)
        for publication in answer.publications:  # all of them: the position is behind them
            self._take(publication)
        self._subscribed.set()

    def _take_state(self, answer: SubscribeResult) -> None:
        try:
            self._show(_State(decoded(answer.data), self._reached))
        except Unreadable as error:
            self._show(BadRequest(f"the state of {self.channel!r} cannot be read: {error}"))

    def published(self, publication: Publication) -> None:
        """Take a publication; over the limit it is left in the channel's history for later."""
        if self._has_overflowed or not self._is_answered:
            return
        if len(self._waiting) >= WAITING:
            self._overflow()
        else:
            self._take(publication)

    def _take(self, publication: Publication) -> None:
        epoch = self._reached.epoch if self._reached is not None else ""
        self._show(publication_from(self.channel, publication, epoch))
        if self._reached is not None and publication.offset:
            self._reached = Position(publication.offset, epoch)

    def _overflow(self) -> None:
        self._has_overflowed = True
        self._client.request_unsubscribe(self, is_over=False)
        if self._reached is None and not self.begins_anew:
            self._show(
                Unrecoverable(f"{self.channel!r} keeps no history, and the application fell behind; load it anew")
            )

    def invalidate(self) -> None:
        """Forget the position: the server has declared it invalid."""
        if self.get_token is not None:
            self.token = ""
        if self._reached is not None:
            self._reached = INVALID

    def end(self, error: TidewireError) -> None:
        """End with an error, which the iteration raises after the publications that have come."""
        self._ended = error
        self._wake()

    def stop(self) -> None:
        """End without an error."""
        self._is_closed = True
        self._wake()

    def _show(self, item: ChannelPublication | TidewireError | _State) -> None:
        self._waiting.append(item)
        self._news.set()

    def _wake(self) -> None:
        self._news.set()
        self._subscribed.set()
