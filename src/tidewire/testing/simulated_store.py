"""A store in the memory of a test, which several workers share; it can be away, and lose its data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.memory import MemoryBroker
from tidewire.errors import NotPublished, PublishUnconfirmed, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication, PublishRequest
from tidewire.testing.simulated_presence import Members, SimulatedPresence

__all__ = ("SimulatedBroker", "SimulatedStore")

#: Turns of the loop by which a seed delays a delivery, at most.
_DELAY = 4


class SimulatedStore:
    """The store that the workers of a test share. `away`, `back` and `lose` are its faults.

    With a `chance`, publications reach each worker a random few turns of the loop after they were kept.
    """

    def __init__(
        self, clock: Callable[[], float], *, limits: Limits, is_shared: bool = False, chance: Random | None = None
    ) -> None:
        self._clock = clock
        self._limits = limits
        self.is_shared = is_shared
        self.chance = chance
        self.is_away = False
        #: Publications are kept, but not acknowledged.
        self.is_silent = False
        #: Called with each publication, and the number of the worker.
        self.on_published: Callable[[Publication, int], None] = lambda publication, worker: None
        self.members = Members(clock)
        self.server = MemoryBroker(clock, limits=limits)
        self._brokers: list[SimulatedBroker] = []

    def broker(self, worker: int) -> SimulatedBroker:
        """Make the broker of a worker."""
        broker = SimulatedBroker(self, worker)
        self._brokers.append(broker)
        return broker

    def presence(self) -> SimulatedPresence:
        """Make the presence of a worker."""
        return SimulatedPresence(self.members, self.check)

    # Faults.

    def away(self, *, silent: bool = False) -> None:
        """Go away: publishing fails, clients stay. With `silent` it keeps publications and does not answer."""
        self.is_away, self.is_silent = not silent, silent

    def back(self) -> None:
        """Come back, with all that was kept."""
        self.is_away = self.is_silent = False
        for broker in tuple(self._brokers):
            broker.resume()

    async def lose(self) -> None:
        """Lose everything, as a store does that starts again without its disk: histories, positions and members."""
        self.server = MemoryBroker(self._clock, limits=self._limits)
        self.members.forget_all()
        await self.server.start(self.deliver)
        for broker in tuple(self._brokers):
            await broker.subscribe_again()
        if not self.is_away:
            self.back()

    def check(self) -> None:
        """Raise StoreUnavailable while it is away."""
        if self.is_away:
            raise StoreUnavailable("the store of this test is away; rt.store.back() brings it back")

    def deliver(self, publications: Sequence[Publication]) -> None:
        """Deliver publications to every worker that is subscribed."""
        for broker in tuple(self._brokers):
            broker.take(publications)

    def relay(self, sender: SimulatedBroker, publications: Sequence[Publication]) -> None:
        """Relay ephemeral publications to the other workers."""
        if not self.is_away:
            for broker in tuple(self._brokers):
                if broker is not sender:
                    broker.take(publications)

    def remove(self, broker: SimulatedBroker) -> None:
        """Deliver nothing more to a worker."""
        if broker in self._brokers:
            self._brokers.remove(broker)


class SimulatedBroker(Broker):
    """The broker of one worker."""

    waits = False
    kept = "in the memory of this test"

    def __init__(self, store: SimulatedStore, worker: int) -> None:
        self.shared = store.is_shared
        self._store = store
        self._worker = worker
        self._channels: set[str] = set()
        self._deliver: Deliver | None = None
        self._resumed: Resumed = nothing_to_resume
        self._waiting: list[Publication] = []

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        self._store.check()
        self._deliver, self._resumed = deliver, resumed
        await self._store.server.start(self._store.deliver)

    async def aclose(self) -> None:
        self._deliver = None
        self._store.remove(self)

    def resume(self) -> None:
        """Tell the node that the outage is over."""
        if self._deliver is not None:
            self._resumed()

    async def subscribe_again(self) -> None:
        """Subscribe to the node's channels again, in a store that is new."""
        for channel in self._channels:
            await self._store.server.subscribe(channel)

    def take(self, publications: Sequence[Publication]) -> None:
        """Deliver publications of the node's channels: now, or when the seed decides, but always in order."""
        wanted = [publication for publication in publications if publication.channel in self._channels]
        if not wanted:
            return
        chance = self._store.chance
        if chance is None and not self._waiting:
            self._give(wanted)
            return
        self._waiting += wanted
        if len(self._waiting) == len(wanted):
            self._wait(0 if chance is None else chance.randrange(_DELAY))

    def _wait(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self._wait, turns - 1)
        else:
            waiting, self._waiting = self._waiting, []
            self._give(waiting)

    def _give(self, publications: Sequence[Publication]) -> None:
        if self._deliver is not None and not self._store.is_away:
            self._deliver(publications)

    async def subscribe(self, channel: str) -> Position:
        self._store.check()
        self._channels.add(channel)
        return await self._store.server.subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        self._channels.discard(channel)

    async def publish(self, request: PublishRequest) -> Position:
        if self._deliver is None:
            raise NotPublished("the broker is not open; publish between its start and its close")
        if self._store.is_away:
            raise NotPublished("the store of this test is away; rt.store.back() brings it back")
        position = await self._store.server.publish(request)
        if not request.channel.startswith("$"):
            self._store.on_published(_published(request, position), self._worker)
        if self._store.is_silent:
            raise PublishUnconfirmed("the store of this test does not answer; rt.store.back() lets it")
        return position

    def relay(self, publications: Sequence[Publication]) -> None:
        self._store.relay(self, publications)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        self._store.check()
        return await self._store.server.read(request)

    async def remove_history(self, channel: str) -> None:
        self._store.check()
        await self._store.server.remove_history(channel)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        self._store.check()
        return await self._store.server.positions(channels)


def _published(request: PublishRequest, position: Position) -> Publication:
    return Publication(
        request.channel, position.offset, 0, position.epoch, 0.0, request.data, request.format, request.meta
    )
