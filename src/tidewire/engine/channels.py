"""Which channels this node carries: begun with their first follower, kept whole, dropped when nobody follows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tidewire.backends.base import Broker
from tidewire.engine.fanout import Fanout
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.tasks import Maintenance
from tidewire.errors import StoreUnavailable
from tidewire.messages import HistoryPage, Position, Publication
from tidewire.options import ChannelRules, Limits
from tidewire.support.counters import count_limit

__all__ = ("Carrier",)

logger = logging.getLogger("tidewire")

#: Channels in one comparison of positions.
_POSITION_BATCH = 500
#: Seconds between two tries to read what a gap lacks.
_RETRY_SECONDS = 0.5


class Carrier:
    """Begins and ends the carriage of channels, one step of one channel at a time, and fills their gaps."""

    def __init__(
        self,
        registry: Registry,
        broker: Broker,
        rules: ChannelRules,
        limits: Limits,
        maintenance: Maintenance,
    ) -> None:
        self._registry = registry
        self._broker = broker
        self._rules = rules
        self._limits = limits
        self._maintenance = maintenance
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._dropping: dict[str, asyncio.Future[None]] = {}
        #: Channels that perhaps nobody follows any more.
        self._idle: dict[str, None] = {}
        self.fanout = Fanout(registry, limits, on_gap=self.catch_up)

    async def carry(self, name: str) -> Channel:
        """Return the channel of this name, which the broker carries from now on; raises StoreUnavailable.

        What the caller does with it until it first suspends is done before the channel can be dropped.
        """
        while True:
            dropping = self._dropping.get(name)
            if dropping is not None:
                await asyncio.wait([dropping])
                continue
            opening = self._opening.get(name)
            if opening is None:
                channel = self._registry.channels.get(name)
                if channel is not None:
                    return channel
                opening = self._begin(name)
            # a task of its own: who asked first may be cancelled while others wait
            await asyncio.shield(opening)

    def _begin(self, name: str) -> asyncio.Task[None]:
        channel = Channel(name, self._rules.options(name), Position(0, ""))
        channel.catching_up = True
        opening = self._maintenance.spawn(self._open(channel))
        if opening is None:
            raise StoreUnavailable(f"channel {name!r} cannot be followed: this node is closed")
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
        self._go_on(channel)

    def left(self, channel: Channel) -> None:
        """Say that a channel has lost a subscriber."""
        if not channel.is_followed:
            self._idle[channel.name] = None

    async def sweep(self) -> None:
        """Stop carrying the channels that nobody follows."""
        for name in tuple(self._idle):
            self._idle.pop(name, None)  # one at a time: where the store fails, the others are looked at again
            channel = self._registry.channels.get(name)
            if channel is not None and not channel.is_followed and channel.tap is None and name not in self._opening:
                await self._drop(name)

    async def _drop(self, name: str) -> None:
        dropped = self._dropping[name] = asyncio.get_running_loop().create_future()
        del self._registry.channels[name]
        try:
            await self._broker.unsubscribe(name)
        finally:
            del self._dropping[name]
            dropped.set_result(None)

    # Gaps.

    def resume(self) -> None:
        """Compare positions at once: the broker was away, and is back (broker.Resumed)."""
        self._maintenance.spawn(self._resume())

    async def _resume(self) -> None:
        try:
            await self.check_positions()
        except StoreUnavailable:
            logger.warning("the store went away again; its positions are compared when it is back")

    async def check_positions(self) -> None:
        """Compare what this node has with what the store has: a lost tail shows in no other way."""
        moved = await self._compare(list(self._registry.channels))
        if moved:  # a gap that was filled meanwhile may have been filled from before the end
            await self._compare(moved)

    async def _compare(self, names: Sequence[str]) -> list[str]:
        """Catch up where the store has something else; return what moved meanwhile and is behind what it had."""
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
                    channel.overrun = True  # what is being read may be older: it is read once more
                elif channel.position == before[name]:
                    self.fanout.gaps += 1
                    self.catch_up(channel)
                elif channel.position.offset < top.offset or channel.position.epoch != top.epoch:
                    moved.append(name)
        return moved

    def catch_up(self, channel: Channel) -> None:
        """Fill a gap from history before anything later is shown; in a task of its own."""
        if not channel.catching_up:
            channel.catching_up = True
            self._maintenance.spawn(self._catch_up(channel))

    async def _catch_up(self, channel: Channel) -> None:
        limit = self._limits.gap_messages + 1
        while self._registry.channels.get(channel.name) is channel:
            try:
                page = await self._broker.history(channel.name, since=channel.position, limit=limit)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                logger.exception("a gap in channel %r cannot be filled yet", channel.name)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._fill(channel, page)
                self._go_on(channel)
                return

    def _fill(self, channel: Channel, page: HistoryPage) -> None:
        position, publications = channel.position, page.publications
        limit = self._exceeded(publications)
        reached = publications[-1].offset if publications else position.offset
        if limit is None and page.complete and page.top.epoch == position.epoch and reached >= page.top.offset:
            for publication in publications:
                self.fanout.accept(channel, publication)
        else:
            count_limit(limit or "gap")
            self.fanout.tell_insufficient(channel, page.top)

    def _exceeded(self, publications: Sequence[Publication]) -> str | None:
        """Return the limit that a gap of these publications exceeds."""
        if len(publications) > self._limits.gap_messages:
            return "gap_messages"
        size = sum([len(publication.data) for publication in publications])
        return "gap_bytes" if size > self._limits.gap_bytes else None

    def _go_on(self, channel: Channel) -> None:
        """Take what came meanwhile; where that was more than may wait, history is read again."""
        waiting, channel.waiting, channel.waiting_bytes = channel.waiting, [], 0
        overrun, channel.overrun, channel.catching_up = channel.overrun, False, False
        self.fanout.deliver(waiting)
        if overrun:
            self.catch_up(channel)
