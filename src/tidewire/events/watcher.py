"""Watches the comings and goings of users on this node; all nodes agree on each event, even if one of them dies.

Each watched subscription has a member in a channel of the store's presence for it. The first and the last member of
that channel are the events; the ends of a killed worker's members are published by the node that claims them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tidewire.channels import HAPPENED, is_personal, is_reserved
from tidewire.engine.node import Node
from tidewire.engine.subscription import Subscription
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.events.event_kinds import KINDS, KeptEvent, shadow_of
from tidewire.messages import Announcement, Member

__all__ = ("Watcher",)

logger = logging.getLogger("tidewire")

_RETRY_SECONDS, _STEP_SECONDS = 1.0, 0.25
#: The user of all members of the channels that show whether a channel has any subscriber.
_ANYBODY = "*"
#: Users that are published again at once.
_STEP = 64
_numbers = itertools.count(1)


class _Watched(NamedTuple):
    """A member of a shadow channel, the event that it begins, and the task that has published that."""

    shadow: str
    member: Member
    begin: KeptEvent
    end: KeptEvent
    token: str
    begun: asyncio.Task[None] | None

    @property
    def key(self) -> tuple[str, str]:
        """The user in the shadow channel."""
        return self.shadow, self.member.user


class Watcher:
    """Watches the subscriptions of one node. `wants` returns whether the events of a pair are wanted for a channel."""

    def __init__(self, node: Node, wants: Callable[[str, str], bool], grace: float) -> None:
        self._node = node
        self._wants = wants
        self._grace = grace
        self._watched: dict[Subscription, list[_Watched]] = {}
        #: (shadow, user) → this node's members that have begun and do not end, by token; the first one has published
        #: that.
        self._here: dict[tuple[str, str], dict[str, _Watched]] = {}
        self._lost_leases = 0

    def entered(self, subscription: Subscription) -> None:
        """Take note of a subscription that has become live."""
        channel, connection = subscription.channel, subscription.connection
        pairs: list[tuple[str, str, str]] = []
        if is_personal(channel):
            pairs = [("connected", "", connection.user)]
        elif not is_reserved(channel):
            pairs = [("joined", channel, connection.user or connection.id), ("occupied", channel, _ANYBODY)]
        found = [
            self._begin(begin, name, user, connection.id, connection.user)
            for begin, name, user in pairs
            if self._wants(begin, name)
        ]
        if found:
            self._watched[subscription] = found

    def left(self, subscription: Subscription) -> None:
        """Take note of the end of a subscription; harmless for one that is not watched."""
        found = self._watched.pop(subscription, ())
        if not self._node.is_open:
            return  # another node publishes the end, unless the client comes back there
        for watched_ in found:
            self._node.tasks.spawn(self._end(watched_))

    def _begin(self, begin: str, channel: str, user: str, connection: str, name: str) -> _Watched:
        shown = "" if user == _ANYBODY else name
        start = KeptEvent(begin, channel, shown, user)
        end = KeptEvent(KINDS[begin], channel, shown, user)
        token = f"{connection}:{next(_numbers):x}"  # a connection that leaves and comes back is another member
        made = _Watched(shadow_of(start), Member(token, user), start, end, token, None)
        return made._replace(begun=self._node.tasks.spawn(self._enter(made)))

    async def _enter(self, watched_: _Watched) -> None:
        leave = Announcement(msgspec.json.encode(msgspec.structs.replace(watched_.end, again=True)))
        while True:
            try:
                joined = await self._node.memberships.enter(watched_.shadow, watched_.member, leave)
                break
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
        here = self._here.setdefault(watched_.key, {})
        is_known = bool(here)
        here[watched_.token] = watched_
        if joined.first:
            await self._tell(watched_.begin, f"begin:{watched_.token}")
        elif not is_known:  # a node that had the user before may have died before it could publish it
            await self._tell_again(watched_, f"begin:{watched_.token}")

    async def _end(self, watched_: _Watched) -> None:
        if watched_.begun is not None:
            await asyncio.wait([watched_.begun])
        if not await self._is_grace_over():
            return
        here = self._here.get(watched_.key, {})
        here.pop(watched_.token, None)
        if not here:
            self._here.pop(watched_.key, None)
        is_announced = is_repeated = False
        while True:
            try:
                if not is_announced and await self._is_alone(watched_):
                    # before the member is removed: if this node dies between the two, another one publishes the same
                    # again
                    await self._tell(watched_.end, f"end:{watched_.token}")
                    is_announced = True
                was_last = await self._node.memberships.quit(watched_.shadow, watched_.member)
                break
            except StoreUnavailable:
                is_repeated = True
                await asyncio.sleep(_RETRY_SECONDS)
        if is_repeated and not (was_last or is_announced):  # the store may have done it although it seemed to fail
            was_last = not await self._is_anybody_there(watched_)
        if was_last and not is_announced:
            await self._tell(watched_.end, f"end:{watched_.token}")
        elif is_announced and not was_last and await self._is_anybody_there(watched_):
            # another connection came between
            await self._tell_again(watched_, f"again:{watched_.token}")

    def look(self) -> None:
        """Publish this node's members again when others could take it for dead, and may have published their ends."""
        lost, self._lost_leases = self._lost_leases, self._node.memberships.lost_leases
        if lost != self._lost_leases:
            logger.info("this node publishes its members' events again, because others could take it for dead")
            self._node.tasks.spawn(self._tell_all_again())

    async def _tell_all_again(self) -> None:
        number = self._lost_leases
        firsts = [next(iter(here.values())) for here in self._here.values() if here]
        for start in range(0, len(firsts), _STEP):
            await asyncio.gather(
                *(
                    self._tell_again(watched_, f"back:{watched_.token}:{number}")
                    for watched_ in firsts[start : start + _STEP]
                    if watched_.token in self._here.get(watched_.key, ())
                )
            )

    async def _is_grace_over(self) -> bool:
        """Wait; return False if this node closes before, so that another one publishes it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace
        while loop.time() < end and self._node.is_open:
            await asyncio.sleep(min(_STEP_SECONDS, max(0.0, end - loop.time())))
        return self._node.is_open

    async def _is_alone(self, watched_: _Watched) -> bool:
        """Return whether there is no other member; the end of a claimed member is published by its claimant."""
        return await self._node.presence.count(watched_.shadow, watched_.member.user) == 1

    async def _is_anybody_there(self, watched_: _Watched) -> bool:
        """Return whether another one is there; if a stalled node's member was claimed, it was not the last, either."""
        while True:
            try:
                return await self._node.presence.count(watched_.shadow, watched_.member.user) > 0
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _tell_again(self, watched_: _Watched, key: str) -> None:
        await self._tell(msgspec.structs.replace(watched_.begin, again=True), key)

    async def _tell(self, event: KeptEvent, key: str) -> None:
        data = msgspec.json.encode(event)
        while True:
            try:
                await self._node.publish(HAPPENED, data, key=key, ephemeral=False)
            except PublishError:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return
