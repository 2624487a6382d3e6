"""A store that can be made to hang on purpose, for a playground: it does not answer until the fault is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from tidewire.backends.base import Broker, Deliver, JoinResult, Presence, Resumed, nothing_to_resume
from tidewire.backends.checked import CheckedBroker, CheckedPresence
from tidewire.errors import PublishUnconfirmed, StoreUnavailable
from tidewire.messages import (
    Announcement,
    Departure,
    EphemeralPublication,
    HistoryPage,
    HistoryRequest,
    Member,
    Position,
    Publication,
    PublishRequest,
)
from tidewire.support.counters import count_limit

__all__ = ("Hang", "hanging")

#: Publications that wait for the end of the fault; more are read from history then.
_LATE = 1_000
_SILENT = "the store does not answer: the playground makes it hang"


class Hang:
    """Whether the store of one process hangs; calls wait for its end, `patience` seconds at most."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.is_on = False
        self._timer: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()
        self._on_end: Callable[[], None] = lambda: None

    def begin(self, seconds: float) -> None:
        """Stop answering for some seconds from now, or for longer if that was asked for before."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() >= end:
                return
            self._timer.cancel()
        self.is_on = True
        self._over.clear()
        self._timer = loop.call_at(end, self.end)

    def end(self) -> None:
        """Answer again; harmless if the store already answers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_on:
            self.is_on = False
            self._over.set()
            self._on_end()

    def on_end(self, work: Callable[[], None]) -> None:
        """Call a function at the end of each."""
        self._on_end = work

    async def wait(self) -> None:
        """Wait until the store answers; raises StoreUnavailable when that takes too long."""
        if self.is_on:
            try:
                await asyncio.wait_for(self._over.wait(), self.patience)
            except TimeoutError:
                raise StoreUnavailable(_SILENT) from None


class _HangingBroker(CheckedBroker):
    """A broker that hangs as a stopped server does: it handles the waiting calls when it continues."""

    def __init__(self, broker: Broker, hang: Hang) -> None:
        super().__init__(broker)
        self._hang = hang
        self._deliver: Deliver | None = None
        self._resumed: Resumed = nothing_to_resume
        self._sent: list[tuple[PublishRequest, asyncio.Future[Position]]] = []
        self._late: list[Publication] = []
        hang.on_end(self._go_on)

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        self._deliver, self._resumed = deliver, resumed
        await super().start(self._take, resumed)

    async def aclose(self) -> None:
        self._hang.end()
        await super().aclose()

    def publish(self, request: PublishRequest) -> Awaitable[Position]:
        if not self._hang.is_on:
            return super().publish(request)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Position] = loop.create_future()
        self._sent.append((request, answer))
        loop.call_later(self._hang.patience, _give_up, answer)
        return answer

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        if self._hang.is_on:
            count_limit("relay")
        else:
            super().relay(publications)

    def _take(self, publications: Sequence[Publication]) -> None:
        assert self._deliver is not None
        if not self._hang.is_on:
            self._deliver(publications)
        elif len(self._late) < _LATE:
            self._late += publications

    def _go_on(self) -> None:
        late, self._late = self._late, []
        if late and self._deliver is not None:
            self._deliver(late)
        sent, self._sent = self._sent, []
        for request, answer in sent:
            asyncio.ensure_future(super().publish(request)).add_done_callback(partial(_pass_on, answer))
        self._resumed()

    async def subscribe(self, channel: str) -> Position:
        await self._hang.wait()
        return await super().subscribe(channel)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        await self._hang.wait()
        return await super().read(request)

    async def remove_history(self, channel: str) -> None:
        await self._hang.wait()
        await super().remove_history(channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        await self._hang.wait()
        return await super().positions(channels)


def _give_up(answer: asyncio.Future[Position]) -> None:
    if not answer.done():
        answer.set_exception(PublishUnconfirmed(_SILENT))


def _pass_on(answer: asyncio.Future[Position], done: asyncio.Future[Position]) -> None:
    error = None if done.cancelled() else done.exception()
    if answer.done():
        return
    if done.cancelled():
        answer.cancel()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


class _HangingPresence(CheckedPresence):
    """A presence that hangs together with its broker."""

    def __init__(self, presence: Presence, hang: Hang) -> None:
        super().__init__(presence)
        self._hang = hang

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        await self._hang.wait()
        return await super().join(channel, member, announcement)

    async def leave(self, channel: str, connection: str) -> bool:
        await self._hang.wait()
        return await super().leave(channel, connection)

    async def set_aside(self, channel: str, connection: str) -> None:
        await self._hang.wait()
        await super().set_aside(channel, connection)

    async def touch(self) -> bool:
        await self._hang.wait()
        return await super().touch()

    async def members(self, channel: str) -> list[Member]:
        await self._hang.wait()
        return await super().members(channel)

    async def count(self, channel: str, user: str | None = None) -> int:
        await self._hang.wait()
        return await super().count(channel, user)

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        await self._hang.wait()
        return await super().claim(limit)

    async def forget(self, departures: Sequence[Departure]) -> None:
        await self._hang.wait()
        await super().forget(departures)


def hanging(broker: Broker, presence: Presence, hang: Hang) -> tuple[Broker, Presence]:
    """Return a store that hangs on request."""
    return CheckedBroker(_HangingBroker(broker, hang)), CheckedPresence(_HangingPresence(presence, hang))
