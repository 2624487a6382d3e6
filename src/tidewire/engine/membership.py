"""Presence in the channels of this node: joins, leaves and announcements that outlive a failing store."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
from collections import deque
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.backends.base import JoinResult, Presence
from tidewire.channels import announced_in, is_each_its_own
from tidewire.engine.connection import Connection
from tidewire.engine.registry import Registry
from tidewire.engine.subscription import Stay, Subscription
from tidewire.engine.tasks import Tasks
from tidewire.errors import NotPublished, PublishError, StoreUnavailable
from tidewire.messages import Announcement, Format, Member, Membership, Position
from tidewire.protocols.meta import announcement_meta
from tidewire.support.log_limit import LogLimit

__all__ = ("Memberships",)

logger = logging.getLogger("tidewire")

#: Seconds between two tries while the store is away.
_RETRY_SECONDS = 1.0
#: Seconds after which a client that a drain has sent away has left, if this node still runs.
_DRAIN_LINGER = 15.0
#: Members that join again at once after a lost lease.
_REJOIN_BATCH = 64

_stays = itertools.count(1)


class _Publish(TypingProtocol):
    async def __call__(self, channel: str, data: bytes, format: Format, *, key: str, meta: bytes) -> Position: ...


class Memberships:
    """Joins and leaves; a leave is repeated until the store has taken it, as is its announcement."""

    def __init__(
        self, presence: Presence, registry: Registry, tasks: Tasks, publish: _Publish, patience: float
    ) -> None:
        self._presence = presence
        self._registry = registry
        self._tasks = tasks
        self._publish = publish
        self._patience = patience
        self._leaving: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._later: deque[tuple[float, Stay]] = deque()
        self._must_rejoin = False
        #: How often others could take this node for dead.
        self.lost_leases = 0
        self._unlisted = LogLimit()
        #: Channels of which this node itself is a member (the channel of the nodes; where it is a producer).
        self._own: dict[tuple[str, str], tuple[Member, Announcement | None]] = {}

    async def enter(self, channel: str, member: Member, leave: Announcement | None = None) -> JoinResult:
        """Make this node a member of a channel until `quit`; if it loses its lease, it joins again at once.

        If it dies, another node publishes `leave`.
        """
        self._own[channel, member.connection] = member, leave
        return await self._presence.join(channel, member, leave)

    async def quit(self, channel: str, member: Member) -> bool:
        """End a membership of this node; return whether it was the user's last. Harmless when repeated.

        Raises StoreUnavailable: then repeat it.
        """
        self._own.pop((channel, member.connection), None)
        return await self._presence.leave(channel, member.connection)

    async def join(self, subscription: Subscription, membership: Membership) -> bool:
        """Add a member; return whether it is the user's first in the channel. While presence is away, it joins later.

        A leave waits for no announcement where none of the join is wanted.
        """
        connection, channel = subscription.connection, subscription.channel
        leaving = self._leaving.get((channel, connection.id))
        if leaving is not None:
            await asyncio.wait([leaving], timeout=self._patience)
        user = connection.id if is_each_its_own(channel) else connection.user or connection.id
        member = Member(connection.id, user, membership.info)
        token = f"{connection.id}:{next(_stays):x}"
        stay = Stay(channel, member, token, membership.leave, membership.leave_on_error)
        stay.is_announced = membership.join is None
        # before the store is asked: a member that it has must be removed even when nobody waits for its answer
        subscription.enter(stay)
        if not self._is_leaving(stay):
            # a task of its own: a leave comes behind it, however the caller ends
            stay.joining = self._tasks.spawn(self._presence.join(channel, member, stay.leave))
            if stay.joining is None:
                return False
            try:
                return (await asyncio.shield(stay.joining)).first
            except StoreUnavailable:
                more = self._unlisted.due()
                if more is not None:
                    logger.warning("presence is away: a member of %r is not listed until it is back%s", channel, more)
        self._must_rejoin = True
        return False

    async def update(self, subscription: Subscription, info: bytes) -> None:
        """Change the presence info of a member, while it stays; raises StoreUnavailable."""
        stay = subscription.stay
        if stay is not None:
            stay.member = msgspec.structs.replace(stay.member, info=info)
            if stay.joining is not None:
                await asyncio.wait([stay.joining])
            while subscription.stay is stay:
                member = stay.member
                await self._rejoin(subscription, stay)
                if stay.member is member:  # a later change may have come to the store before this one
                    return

    def connections(self, connection: Connection, channel: str) -> int:
        """Return how many connections its user had in the channel when this one had joined; 0: not known."""
        subscription = self._registry.subscriptions(connection).get(channel)
        joining = None if subscription is None or subscription.stay is None else subscription.stay.joining
        if joining is None or not joining.done() or joining.cancelled() or joining.exception() is not None:
            return 0
        return joining.result().connections

    def _is_leaving(self, stay: Stay) -> bool:
        """Return whether the store has yet to take an earlier leave of the same member, which would end this stay."""
        return (stay.channel, stay.member.connection) in self._leaving

    async def announce(self, subscription: Subscription, join: Announcement | None) -> None:
        """Publish that a user has come; a store that fails does so later, unless the user has left by then."""
        if (stay := subscription.stay) is not None:
            stay.is_announced = True
            if join is not None and not await self._try_announce(stay, join):
                self._tasks.spawn(self._announce_later(subscription, stay, join))

    async def _try_announce(self, stay: Stay, join: Announcement) -> bool:
        try:
            await self._say(stay.channel, join, f"join:{stay.token}")
        except PublishError as error:
            stay.is_announced = not isinstance(error, NotPublished)
            return False
        stay.is_announced = True
        return True

    async def _say(self, channel: str, said: Announcement, key: str) -> None:
        meta = announcement_meta(channel)
        await self._publish(announced_in(channel), said.data, said.format, key=key, meta=meta)

    async def _announce_later(self, subscription: Subscription, stay: Stay, join: Announcement) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            if subscription.stay is not stay or await self._try_announce(stay, join):
                return

    def withdraw(self, subscription: Subscription) -> None:
        """Remove a member whose subscribe failed: its join was not announced. A member whose client has gone leaves."""
        if subscription.stay is not None and not subscription.connection.is_closed:
            subscription.stay.is_announced = False
        self.leave(subscription)

    def leave(self, subscription: Subscription, *, failed: bool = False) -> asyncio.Task[None] | None:
        """Remove a member, and publish its announcement if it was the user's last; in a task that may be waited for."""
        stay = subscription.leave()
        if stay is None:
            return None
        if failed and stay.leave_on_error is not None:
            stay.leave = stay.leave_on_error
        return self._leave(stay)

    def leave_later(self, subscription: Subscription) -> None:
        """Set a member aside that a drain has sent away, and remove it if this node lives on.

        No leave is published in a drain, and a client that has come back is there once.
        """
        stay = subscription.leave()
        if stay is not None:
            self._tasks.spawn(self._set_aside(stay))
            self._later.append((asyncio.get_running_loop().time() + _DRAIN_LINGER, stay))

    def _leave(self, stay: Stay) -> asyncio.Task[None] | None:
        task = self._tasks.spawn(self._leave_now(stay))
        if task is not None:
            key = (stay.channel, stay.member.connection)
            self._leaving[key] = task
            task.add_done_callback(lambda done: self._left(key, done))
        return task

    def _left(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._leaving.get(key) is task:  # a later leave of the same member may have taken the place
            del self._leaving[key]

    async def _leave_now(self, stay: Stay) -> None:
        if stay.joining is not None:
            await asyncio.wait([stay.joining])
        was_last = await self._remove(stay)
        if was_last and stay.leave is not None and _is_known(stay):
            await self._announce_leave(stay.channel, stay.leave, f"leave:{stay.token}")

    async def _set_aside(self, stay: Stay) -> None:
        if stay.joining is not None:
            await asyncio.wait([stay.joining])
        with contextlib.suppress(StoreUnavailable):  # the end of this node does the same
            await self._presence.set_aside(stay.channel, stay.member.connection)

    async def _remove(self, stay: Stay) -> bool:
        is_repeated = False
        while True:
            try:
                if await self._presence.leave(stay.channel, stay.member.connection):
                    return True
                # the store may have done it when it seemed to fail, and then says nothing of it the second time
                return is_repeated and await self._presence.count(stay.channel, stay.member.user) == 0
            except StoreUnavailable:
                is_repeated = True
                await asyncio.sleep(_RETRY_SECONDS)

    async def _announce_leave(self, channel: str, announcement: Announcement, key: str) -> None:
        """Publish an announcement, again and again until the store keeps it; the key makes that harmless."""
        while True:
            try:
                await self._say(channel, announcement, key)
            except PublishError as error:
                if self._tasks.is_closed and isinstance(error, NotPublished):
                    return
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def touch(self) -> None:
        """Prolong the lease; the members that were lost with it join again."""
        if not await self._presence.touch():
            logger.warning("this node lost its lease; its members join again")
            self.lost_leases += 1
            self._must_rejoin = True
        if self._must_rejoin:
            self._must_rejoin = False
            try:
                await self._join_again()
            except BaseException:
                self._must_rejoin = True
                raise

    async def _join_again(self) -> None:
        present = [
            (subscription, subscription.stay)
            for connection in self._registry.connections.values()
            for subscription in self._registry.subscriptions(connection).values()
            if subscription.stay is not None
        ]
        steps = [functools.partial(self._enter_again, *key) for key in self._own]
        steps += [functools.partial(self._rejoin, *pair) for pair in present]
        for start in range(0, len(steps), _REJOIN_BATCH):
            await asyncio.gather(*(step() for step in steps[start : start + _REJOIN_BATCH]))
            if not await self._presence.touch():
                self._must_rejoin = True

    async def _enter_again(self, channel: str, connection: str) -> None:
        if (channel, connection) in self._own:
            await self._presence.join(channel, *self._own[channel, connection])
            if (channel, connection) not in self._own:
                await self._presence.leave(channel, connection)

    async def _rejoin(self, subscription: Subscription, stay: Stay) -> None:
        if self._is_leaving(stay):
            self._must_rejoin = True
        elif subscription.stay is stay:
            await self._presence.join(stay.channel, stay.member, stay.leave)
            if subscription.stay is not stay:
                await self._presence.leave(stay.channel, stay.member.connection)

    async def claim(self) -> None:
        """Publish the announcements of members of dead nodes, and forget them."""
        departures = await self._presence.claim()
        for departure in departures:
            if departure.announcement is not None:
                await self._say(departure.channel, departure.announcement, departure.token)
        if departures:
            await self._presence.forget(departures)
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            self._leave(self._later.popleft()[1])


def _is_known(stay: Stay) -> bool:
    """Return whether others know of the user: it was announced, or it joined beside an announced connection."""
    joining = stay.joining
    if stay.is_announced or joining is None or joining.cancelled() or joining.exception() is not None:
        return stay.is_announced
    return not joining.result().first
