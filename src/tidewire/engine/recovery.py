"""The history that a subscriber is given before it is live: read until it is not behind the channel's deliveries."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from tidewire.engine.registry import Channel
from tidewire.engine.subscription import Subscription
from tidewire.errors import StoreUnavailable
from tidewire.history.recovery_merge import Recovery
from tidewire.history.recovery_reader import Missed, RecoveryReader, Subject
from tidewire.history.shared_states import MakeState, State, States
from tidewire.messages import Position, Publication

__all__ = ("Recoveries",)

#: How often, and after how many seconds, history is read again that was behind the newest delivery.
_BEHIND_TRIES, _BEHIND_SECONDS = 25, 0.02


class Recoveries:
    """The recoveries of a node's subscribers."""

    def __init__(self, reader: RecoveryReader, states: States, *, on_epoch_changed: Callable[[Channel], None]) -> None:
        self._reader = reader
        self._states = states
        self._on_epoch_changed = on_epoch_changed
        #: Recoveries that were complete, or not.
        self.counts: Counter[bool] = Counter()
        self.forget = reader.forget

    async def recover(
        self, channel: Channel, subscription: Subscription, since: Position | None, history: int
    ) -> Missed:
        """Return the first page of earlier publications (history.recovery_reader.RecoveryReader).

        The last page has all that is delivered until the next suspension of the caller. Raises StoreUnavailable.
        """
        history = min(history, channel.options.history_size)
        if since is None and history <= 0:
            return Missed(Recovery((), _beginning(channel, subscription), complete=True), None)
        live = _Live(channel, subscription)
        for _ in range(_BEHIND_TRIES):
            subject = Subject(channel.name, channel.options.retention, channel.position, since, history)
            missed = await self._reader.read(subject, live)
            if missed.recovery.position.epoch != channel.position.epoch:
                self._on_epoch_changed(channel)  # which has to be noticed first
            elif missed.has_more or not live.is_past(missed.recovery):
                if missed.recovered is not None:
                    self.counts[missed.recovered] += 1
                return missed
            await asyncio.sleep(_BEHIND_SECONDS)
        raise StoreUnavailable(f"the history of {channel.name!r} is behind what was delivered; try again")

    async def state(self, channel: Channel, make: MakeState, subscription: Subscription | None = None) -> State:
        """Return the state of a channel from its application; everything after it can be given to the subscriber."""
        state = await self._states.current(channel.name, make, lambda: channel.position)
        if subscription is None or state.reaches(subscription.began or channel.position):
            return state  # everything since then waits behind the reply
        if (await self.recover(channel, subscription, state.position, 0)).recovered:
            return state
        return await self._states.current(channel.name, make, lambda: channel.position, after=subscription.began)

    @property
    def reads(self) -> tuple[int, int]:
        """How many recoveries read the store themselves, and how many shared the read of another one."""
        return self._reader.reads


class _Live(msgspec.Struct, frozen=True):
    """The publications that came to one subscriber since its subscribe began (history.recovery_reader.Meanwhile)."""

    channel: Channel
    subscription: Subscription

    def buffered(self) -> tuple[Publication, ...]:
        """Return the publications that wait for the subscriber, in order."""
        return (*(self.subscription.buffer or ()), *self.channel.pending)

    def is_past(self, recovery: Recovery) -> bool:
        """Return whether the store's answer is older than its newest delivery."""
        position, reached = self.channel.position, recovery.position
        return reached.epoch == position.epoch and reached.offset < position.offset


def _beginning(channel: Channel, subscription: Subscription) -> Position:
    """Return where a subscriber begins that asks for nothing older.

    That is the position at which its subscribe began, not a later one: a client whose endpoint subscribes once it is
    accepted expects every publication from that moment on.
    """
    began = subscription.began
    if began is None or subscription.resumed is not None or began.epoch != channel.position.epoch:
        return channel.position
    return began
