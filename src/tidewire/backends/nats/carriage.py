"""Carries publications from NATS to this node: one subscription for each channel, and their messages put in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from nats.aio.msg import Msg

from tidewire.backends.base import Deliver
from tidewire.backends.nats.jetstream import LAST_SEQUENCE, REMOVED, SEQUENCE, STAMP, Stamp
from tidewire.backends.nats.ordering import Carried
from tidewire.backends.nats.publication_stream import Stream
from tidewire.backends.nats.reading import top_of
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.messages import Position, Publication

__all__ = ("Carriage",)

logger = logging.getLogger("tidewire")

#: Seconds for which a message waits for an earlier one of its channel.
_PATIENCE = 0.1


class Carriage:
    """The channels that are carried. `remember` is told the sequence and the time of each publication that arrives."""

    def __init__(self, clock: StoreClock, deliver: Deliver, remember: Callable[[int, float], None]) -> None:
        self._clock = clock
        self._deliver = deliver
        self._remember = remember
        self._channels: dict[str, Carried] = {}

    async def carry_on(self, stream: Stream, *, is_new: bool) -> None:
        """Subscribe to every channel in a new session; `is_new`: the stream has another epoch than before."""
        for channel, carried in tuple(self._channels.items()):
            if is_new:
                carried.forget()
                carried.settle(0, 0)
            if self._channels.get(channel) is carried:  # it may have been given up meanwhile
                await self._listen(stream, channel, carried)

    async def subscribe(self, stream: Stream, channel: str) -> Position:
        """Begin to carry a channel; raises StoreUnavailable."""
        carried = self._channels.get(channel)
        is_new = carried is None
        if carried is None:
            carried = self._channels[channel] = Carried()
        try:
            if is_new:
                await self._listen(stream, channel, carried)
            last = await stream.last(stream.stored(channel))
        except BaseException:
            if is_new:
                await self.unsubscribe(channel, stream)
            raise
        position = Position(top_of(last), stream.epoch)
        self._hand_over(carried.settle(0 if last is None else last.seq, position.offset))
        return position

    async def _listen(self, stream: Stream, channel: str, carried: Carried) -> None:
        async def arrive(msg: Msg) -> None:
            self._arrive(stream.epoch, channel, carried, msg)

        carried.listens(await stream.session.subscribe(stream.carried(channel), arrive, may_drop=True))

    async def unsubscribe(self, channel: str, stream: Stream | None) -> None:
        """Stop carrying a channel; `stream` is None while the server is away."""
        carried = self._channels.pop(channel, None)
        if carried is not None and carried.subscription is not None and stream is not None:
            await stream.session.unsubscribe(carried.subscription)

    def _arrive(self, epoch: str, channel: str, carried: Carried, msg: Msg) -> None:
        headers = msg.headers
        if headers is None or SEQUENCE not in headers or LAST_SEQUENCE not in headers:
            return  # another program's: the stream's own messages always have them
        offset, previous = int(headers[SEQUENCE]), int(headers[LAST_SEQUENCE])
        if REMOVED in headers:
            self._hand_over(carried.take_marker(offset, previous, int(headers[REMOVED])))
            return
        stamp = Stamp.read(headers, self._clock.now())
        if STAMP in headers:
            self._remember(offset, stamp.time)
        self._hand_over(carried.take(previous, stamp.publication(channel, offset, previous, epoch, msg.data)))
        if carried.is_waiting:
            carried.wait(_PATIENCE, lambda: self._hand_over(carried.give_up()))

    def _hand_over(self, publications: Sequence[Publication]) -> None:
        if not publications:
            return
        try:
            self._deliver(publications)
        except Exception:
            logger.exception("a delivery of %d publications failed", len(publications))

    @property
    def has_arrived(self) -> bool:
        """Everything is taken that the server has sent."""
        subscriptions = [carried.subscription for carried in self._channels.values()]
        return not any(one is not None and one.pending_msgs for one in subscriptions)

    def close(self) -> None:
        """Deliver everything that waits for an earlier message, and forget the channels."""
        for carried in self._channels.values():
            if carried.stop_waiting():
                self._hand_over(carried.give_up())
        self._channels.clear()
