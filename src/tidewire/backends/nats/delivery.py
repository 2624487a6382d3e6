"""Delivers publications from NATS to this node: one subscription for each channel, its messages put in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from nats.aio.msg import Msg

from tidewire.backends.base import Deliver
from tidewire.backends.nats.jetstream import LAST_SEQUENCE, REMOVED, SEQUENCE, STAMP, Stamp
from tidewire.backends.nats.ordering import OrderedChannel
from tidewire.backends.nats.publication_stream import Stream
from tidewire.backends.nats.reading import top_of
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.shared.relayed import unpack_ephemeral
from tidewire.messages import Position, Publication

__all__ = ("EPHEMERAL", "Delivery")

logger = logging.getLogger("tidewire")

#: The header of messages that hold publications that nobody keeps; it names their node.
EPHEMERAL = "Tidewire-Ephemeral"
#: Seconds for which a message waits for an earlier one of its channel.
_PATIENCE = 0.1


class Delivery:
    """The channels of this node. `remember` is called with the sequence and the time of each arrived publication."""

    def __init__(self, clock: StoreClock, deliver: Deliver, remember: Callable[[int, float], None], node: str) -> None:
        self._clock = clock
        self._deliver = deliver
        self._remember = remember
        self._node = node
        self._channels: dict[str, OrderedChannel] = {}

    async def resume(self, stream: Stream, *, is_new: bool) -> None:
        """Subscribe to every channel in a new session; `is_new`: the stream has another epoch than before."""
        for channel, ordered in tuple(self._channels.items()):
            if is_new:
                ordered.forget()
                ordered.settle(0, 0)
            if self._channels.get(channel) is ordered:  # it may have been given up meanwhile
                await self._listen(stream, channel, ordered)

    async def subscribe(self, stream: Stream, channel: str) -> Position:
        """Subscribe to a channel; raises StoreUnavailable."""
        ordered = self._channels.get(channel)
        is_new = ordered is None
        if ordered is None:
            ordered = self._channels[channel] = OrderedChannel()
        try:
            if is_new:
                await self._listen(stream, channel, ordered)
            last = await stream.last(stream.stored(channel))
        except BaseException:
            if is_new:
                await self.unsubscribe(channel, stream)
            raise
        position = Position(top_of(last), stream.epoch)
        self._hand_over(ordered.settle(0 if last is None else last.seq, position.offset))
        return position

    async def _listen(self, stream: Stream, channel: str, ordered: OrderedChannel) -> None:
        async def arrive(msg: Msg) -> None:
            self._arrive(stream.epoch, channel, ordered, msg)

        ordered.listens(await stream.session.subscribe(stream.live(channel), arrive, may_drop=True))

    async def unsubscribe(self, channel: str, stream: Stream | None) -> None:
        """End the subscription to a channel; `stream` is None while the server is away."""
        ordered = self._channels.pop(channel, None)
        if ordered is not None and ordered.subscription is not None and stream is not None:
            await stream.session.unsubscribe(ordered.subscription)

    def _arrive(self, epoch: str, channel: str, ordered: OrderedChannel, msg: Msg) -> None:
        headers = msg.headers
        if headers is not None and EPHEMERAL in headers:
            if headers[EPHEMERAL] != self._node:
                self._hand_over(unpack_ephemeral(msg.data, self._node))
            return
        if headers is None or SEQUENCE not in headers or LAST_SEQUENCE not in headers:
            return  # another program's: the stream's own messages always have them
        offset, previous = int(headers[SEQUENCE]), int(headers[LAST_SEQUENCE])
        if REMOVED in headers:
            self._hand_over(ordered.take_marker(offset, previous, int(headers[REMOVED])))
            return
        stamp = Stamp.read(headers, self._clock.now())
        if STAMP in headers:
            self._remember(offset, stamp.time)
        self._hand_over(ordered.take(previous, stamp.publication(channel, offset, previous, epoch, msg.data)))
        if ordered.is_waiting:
            ordered.wait(_PATIENCE, lambda: self._hand_over(ordered.give_up()))

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
        subscriptions = [ordered.subscription for ordered in self._channels.values()]
        return not any(one is not None and one.pending_msgs for one in subscriptions)

    def close(self) -> None:
        """Deliver everything that waits for an earlier message, and forget the channels."""
        for ordered in self._channels.values():
            if ordered.stop_waiting():
                self._hand_over(ordered.give_up())
        self._channels.clear()
