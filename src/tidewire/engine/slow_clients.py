"""A slow client costs only itself: its publications are held back or dropped, or it is disconnected."""

from __future__ import annotations

from collections.abc import Sequence

from tidewire.channel_options import SlowPolicy
from tidewire.engine.connection import Connection
from tidewire.engine.registry import Channel, Registry
from tidewire.engine.subscription import Subscription
from tidewire.limits import Limits
from tidewire.messages import Dropped, Publication
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import SLOW
from tidewire.support.counters import count_limit

__all__ = ("SlowClients",)


class SlowClients:
    """Applies the policies of channels (channel_options.SlowPolicy) to connections whose links are paused."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Paused connections that have not drained since: the turn of the last judgement, and its outcome.
        self._paused: dict[Connection, tuple[int, bool]] = {}
        #: Connections with a subscription for which something is held back or was dropped.
        self._holding: set[Connection] = set()
        self.disconnects = 0
        self.dropped = 0
        self.superseded = 0

    def write(
        self,
        channel: Channel,
        subscription: Subscription,
        publications: Sequence[Publication],
        batch: Batch,
        turn: int,
    ) -> bool:
        """Treat a batch for a paused link as the channel's policy says.

        Return False when the client is over its limit, and is disconnected instead.
        """
        connection, policy = subscription.connection, channel.options.slow
        if policy is SlowPolicy.DISCONNECT:
            if self.is_over(connection, turn):
                self.cut_off(connection)
                return False
            connection.link.write(batch)
            channel.count(batch)
        elif policy is SlowPolicy.LATEST:
            self.superseded += subscription.hold_newest(subscription.representation.choose(publications))
            self._holding.add(connection)
        else:
            self._drop(subscription, len(batch))
        return True

    def shorten(self, channel: Channel, subscription: Subscription) -> None:
        """Apply the channel's policy to the buffer behind a reply, where it has become more than may wait."""
        buffer = subscription.buffer or ()
        if not self._is_too_much(subscription.buffered_bytes, len(buffer)):
            return
        if subscription.is_paging:
            subscription.shorten_buffer(())  # history has it for the last page
            return
        wanted = list(subscription.representation.choose(buffer))
        kept: list[Publication] = []
        if channel.options.slow is SlowPolicy.DISCONNECT:
            self.cut_off(subscription.connection)
        elif channel.options.slow is SlowPolicy.LATEST:
            kept = wanted[-1:]
            self.superseded += len(wanted) - len(kept)
            subscription.supersede(len(wanted) - len(kept))
        else:
            self._drop(subscription, len(wanted))
        subscription.shorten_buffer(kept)

    def _drop(self, subscription: Subscription, count: int) -> None:
        self.dropped += count
        subscription.drop(count)
        self._holding.add(subscription.connection)

    def is_over(self, connection: Connection, turn: int) -> bool:
        """Return whether *earlier* turns left more unsent than may wait, before anything is added.

        A burst in one turn cuts nobody off: a connection that is found paused for the first time may be so by this
        very turn.
        """
        judged, is_over = self._paused.get(connection, (0, False))
        if not judged:
            self._paused[connection] = (turn, False)
        elif judged != turn:
            is_over = self._is_too_much(*connection.link.backlog())
            self._paused[connection] = (turn, is_over)
        return is_over

    def _is_too_much(self, size: int, messages: int) -> bool:
        limits = self._limits
        if size <= limits.outbox_bytes and messages <= limits.outbox_messages:
            return False
        count_limit("outbox_bytes" if size > limits.outbox_bytes else "outbox_messages")
        return True

    def cut_off(self, connection: Connection) -> None:
        """Disconnect a client with a code that makes it come back and recover."""
        self._paused.pop(connection, None)
        if not connection.is_closed:
            self.disconnects += 1
            connection.refuse("slow", "more waits for this client than its outbox may hold; it is disconnected")
            connection.end(SLOW)

    def release(self, connection: Connection, registry: Registry) -> None:
        """Give a client that has caught up the publications held back for it, and tell it how many were dropped."""
        self._paused.pop(connection, None)
        if connection not in self._holding:
            return
        self._holding.discard(connection)
        for subscription in tuple(registry.subscriptions(connection).values()):
            held, dropped = subscription.take_held()
            if dropped:
                connection.write(connection.protocol.encode_dropped(Dropped(subscription.channel, dropped)))
            if held is not None:
                batch = subscription.representation.batch((held,))
                connection.link.write(batch)
                if subscription.channel in registry.channels:
                    registry.channels[subscription.channel].count(batch)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._paused.pop(connection, None)
        self._holding.discard(connection)
