"""Step 6 of the way of a message: it arrives. The channels that this node is subscribed to, and their gaps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tidewire.backends.base import Broker
from tidewire.engine.fanout import Fanout
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.tasks import Tasks
from tidewire.errors import StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, HistoryPage, Position, Publication
from tidewire.rules.options_by_name import OptionsByName
from tidewire.support.counters import count_limit

__all__ = ("Channels",)

logger = logging.getLogger("tidewire")

#: Channels in one comparison of positions.
_POSITION_BATCH = 500
#: Seconds between two tries to fill a gap.
_RETRY_SECONDS = 0.5


class Channels:
    """Subscribes to channels at the broker with their first subscriber here, and unsubscribes after the last.

    Deliveries of the broker are shown in the order of its offsets: a duplicate is dropped, and behind a gap nothing is
    shown before history has filled it, or the subscribers are told.
    """

    def __init__(
        self, registry: Registry, broker: Broker, fanout: Fanout, options: OptionsByName, limits: Limits, tasks: Tasks
    ) -> None:
        self._registry = registry
        self._broker = broker
        self._fanout = fanout
        self._options = options
        self._limits = limits
        self._tasks = tasks
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closing: dict[str, asyncio.Future[None]] = {}
        #: Channels that perhaps have no subscriber any more.
        self._idle: dict[str, None] = {}
        self.duplicates = 0
        self.gaps = 0

    # Open and close.

    async def open(self, name: str) -> Channel:
        """Return the channel of this name, which the broker delivers from now on; raises StoreUnavailable.

        Until the caller first suspends, the channel cannot be closed.
        """
        while True:
            closing = self._closing.get(name)
            if closing is not None:
                await asyncio.wait([closing])
                continue
            opening = self._opening.get(name)
            if opening is None:
                channel = self._registry.channels.get(name)
                if channel is not None:
                    return channel
                opening = self._begin(name)
            # a task of its own: the caller that asked first may be cancelled while others wait
            await asyncio.shield(opening)

    def _begin(self, name: str) -> asyncio.Task[None]:
        channel = Channel(name, self._options.of(name), self._options.tallies[name])
        opening = self._tasks.spawn(self._open(channel))
        if opening is None:
            raise StoreUnavailable(f"channel {name!r} cannot be subscribed to: this node is closed")
        self._registry.channels[name] = channel
        self._opening[name] = opening
        return opening

    async def _open(self, channel: Channel) -> None:
        try:
            channel.position = await self._broker.subscribe(channel.name)
        except BaseException:
            del self._registry.channels[channel.name]
            raise
        finally:
            del self._opening[channel.name]
        self._idle[channel.name] = None
        self._caught_up(channel)

    async def listen(self, name: str, tap: Callable[[Publication], bool | None]) -> None:
        """Call a function with each publication; those for which it returns True reach subscribers, too.

        Raises StoreUnavailable.
        """
        (await self.open(name)).tap = tap

    def left(self, channel: Channel) -> None:
        """Note that a channel has lost a subscriber."""
        if not channel.is_used:
            self._idle[channel.name] = None

    async def sweep(self) -> None:
        """Close the channels that have no subscriber."""
        for name in tuple(self._idle):
            self._idle.pop(name, None)  # one at a time: where the store fails, the others are looked at again
            channel = self._registry.channels.get(name)
            if channel is not None and not channel.is_used and name not in self._opening:
                await self._close(name)

    async def _close(self, name: str) -> None:
        closed = self._closing[name] = asyncio.get_running_loop().create_future()
        del self._registry.channels[name]
        try:
            await self._broker.unsubscribe(name)
        finally:
            del self._closing[name]
            closed.set_result(None)

    # A publication arrives.

    def deliver(self, publications: Sequence[Publication]) -> None:
        """Take publications from the broker: drop duplicates, notice gaps, give the rest to fan-out."""
        channels = self._registry.channels
        for publication in publications:
            if not publication.offset and isinstance(publication, EphemeralPublication):
                self._fanout.ephemeral.add(publication)
                continue
            channel = channels.get(publication.channel)
            if channel is None:
                continue
            if channel.catching_up:
                self._wait(channel, publication)
                continue
            position = channel.position
            if publication.epoch == position.epoch:
                if publication.offset <= position.offset:
                    self.duplicates += 1
                    continue
                if publication.previous <= position.offset:
                    self._accept(channel, publication)
                    continue
            self.gaps += 1
            self.catch_up(channel)
            self._wait(channel, publication)

    def _accept(self, channel: Channel, publication: Publication) -> None:
        """Show one publication that is contiguous with the channel's position."""
        channel.position = Position(publication.offset, publication.epoch)
        if channel.tap is None or channel.tap(publication):
            self._fanout.add(channel, publication)

    def _wait(self, channel: Channel, publication: Publication) -> None:
        """Keep a publication that arrives while a channel is catching up, up to a limit: history has the rest."""
        channel.waiting.append(publication)
        channel.waiting_bytes += len(publication.data)
        limits = self._limits
        if len(channel.waiting) > limits.gap_messages or channel.waiting_bytes > limits.gap_bytes:
            channel.waiting.clear()
            channel.waiting_bytes = 0
            channel.overrun = True

    # Gaps.

    async def check_positions(self) -> None:
        """Compare this node's positions with the store's: a lost tail shows in no other way."""
        # twice where one moved: a gap that was filled meanwhile may have been filled from before the end
        await self._compare(await self._compare(list(self._registry.channels)))

    async def _compare(self, names: Sequence[str]) -> list[str]:
        """Catch up where the store differs; return the channels that moved meanwhile and are still behind it."""
        channels = self._registry.channels
        moved: list[str] = []
        for start in range(0, len(names), _POSITION_BATCH):
            batch = names[start : start + _POSITION_BATCH]
            before = {name: channels[name].position for name in batch if name in channels}
            tops = await self._broker.positions(list(before))
            for name, top in tops.items():
                channel = channels.get(name)
                if channel is None or channel.position == top:
                    continue
                if channel.catching_up:
                    channel.overrun = True  # the page that is being read may be older: read once more
                elif channel.position == before[name]:
                    self.gaps += 1
                    self.catch_up(channel)
                elif channel.position.offset < top.offset or channel.position.epoch != top.epoch:
                    moved.append(name)
        return moved

    def catch_up(self, channel: Channel) -> None:
        """Fill a gap from history before anything later is shown; in a task of its own."""
        if not channel.catching_up:
            channel.catching_up = True
            self._tasks.spawn(self._catch_up(channel))

    async def _catch_up(self, channel: Channel) -> None:
        limit = self._limits.gap_messages + 1
        while self._registry.channels.get(channel.name) is channel:
            try:
                page = await self._broker.history(channel.name, since=channel.position, limit=limit)
            except Exception as error:
                if not isinstance(error, StoreUnavailable):
                    logger.exception("a gap in channel %r cannot be filled yet", channel.name)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._fill(channel, page)
                self._caught_up(channel)
                return

    def _fill(self, channel: Channel, page: HistoryPage) -> None:
        position, publications = channel.position, page.publications
        limit = self._exceeded(publications)
        reached = publications[-1].offset if publications else position.offset
        if limit is None and page.complete and page.top.epoch == position.epoch and reached >= page.top.offset:
            for publication in publications:
                self._accept(channel, publication)
        else:
            count_limit(limit or "gap")
            channel.position = page.top
            self._fanout.tell_insufficient(channel)

    def _exceeded(self, publications: Sequence[Publication]) -> str | None:
        """Return the limit that a gap of these publications exceeds."""
        if len(publications) > self._limits.gap_messages:
            return "gap_messages"
        size = sum([len(publication.data) for publication in publications])
        return "gap_bytes" if size > self._limits.gap_bytes else None

    def _caught_up(self, channel: Channel) -> None:
        """Take the publications that came meanwhile; read history again where they were too many to wait."""
        waiting, channel.waiting, channel.waiting_bytes = channel.waiting, [], 0
        overrun, channel.overrun, channel.catching_up = channel.overrun, False, False
        current = [publication for publication in waiting if publication.epoch == channel.position.epoch]
        self.deliver(current)
        if overrun or len(current) < len(waiting):  # of another epoch: which one is over, history says
            self.catch_up(channel)
