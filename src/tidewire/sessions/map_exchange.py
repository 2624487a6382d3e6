"""One map that no store keeps: every node that uses it has all entries, and tells the others of its changes."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict

import msgspec

from tidewire.channels import copies, owners
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, LimitExceeded, StoreUnavailable, TidewireError
from tidewire.messages import EphemeralPublication, Format, Member, Position, Publication
from tidewire.protocols.map_changes import Change, change_of
from tidewire.protocols.map_news import News, Readers, decode_news, maker_of, parts_of
from tidewire.protocols.meta import CHANGE, PublicationMeta
from tidewire.sessions.map_replica import Replica
from tidewire.support.counters import count_limit

__all__ = ("SharedReplica",)

logger = logging.getLogger("tidewire")

#: Seconds for which a newcomer waits for the others, between two questions, before an answer to all who ask, and
#: from one answer to the next.
_PATIENCE, _ASK, _ANSWER, _PAUSE = 1.0, 0.2, 0.02, 0.1
_RETRY = 0.5
#: How often the newest number is sent; bytes of an answer's part, and those of an entry there beside its data, at most.
_REPEATS, _PART, _ROOM = 3, 24_576, 2_048
#: Owners that have left and are remembered.
_REMEMBERED = 10_000
#: A stamp that is so much greater than all that are known is none: after it there might be no room for greater ones.
_LEAP = 1 << 40
_ID = 6


class SharedReplica(Replica):
    """Takes each change of the channel first; subscribers are shown it if it is the newest of its key.

    The greatest stamp wins, from any node; a stamp is greater than all that its node knows. The changes of each node
    are numbered: where one is missing, its node is asked for all of them. A newcomer asks every node that has the map,
    which presence lists. Places (`Entry.offset`) are this node's own.
    """

    def __init__(self, node: Node, channel: str) -> None:
        super().__init__(node, channel)
        #: One life of this reader.
        self._id = secrets.token_hex(_ID)
        self._member = Member(self._id, self._id)
        self.state.position = Position(0, self._id)
        #: The stamp of the newest change of each key that `state` remembers, and the change.
        self._newest: dict[str, tuple[tuple[int, str], EphemeralPublication]] = {}
        self._clock = self._number = self._answered = 0
        self._repeats = 0
        self._readers = Readers()
        #: Readers that have answered this one while it was new.
        self._heard: set[str] = set()
        self._is_merging = False
        self._left: OrderedDict[str, None] = OrderedDict()
        #: Looks at presence that are to come, and owners that were not there at the last one.
        self._doubts = 0
        self._absent: set[str] = set()
        self._answering: asyncio.TimerHandle | None = None
        self._answered_at = 0.0
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_needed(self) -> bool:
        """Whether there are entries, which nobody else may have, or subscribers."""
        channel = self._node.registry.channels.get(self.channel)
        return bool(self.state.entries) or (channel is not None and bool(channel.groups or channel.buffering))

    async def aclose(self) -> None:
        """Read no more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._answering is not None:
            self._answering.cancel()
        for name, tap in ((self.channel, self._take), (copies(self.channel), self._hear)):
            channel = self._node.registry.channels.get(name)
            if channel is not None and channel.tap == tap:
                channel.tap = None
                self._node.channels.left(channel)
        if self._node.broker.shared:
            try:
                await self._node.memberships.quit(copies(self.channel), self._member)
            except StoreUnavailable:
                logger.info("presence is away: others wait for the map in %r until its lease ends", self.channel)

    # Opening.

    async def _run(self) -> None:
        while not self._is_ready:
            try:
                await self._open()
            except TidewireError as error:
                logger.info("the map in %r cannot be read yet: %s", self.channel, error)
                await asyncio.sleep(_RETRY)

    async def _open(self) -> None:
        node, news = self._node, copies(self.channel)
        await node.channels.listen(self.channel, self._take)
        if node.broker.shared:
            await node.channels.listen(news, self._hear)
            await node.memberships.enter(news, self._member)
            others = {one.connection for one in await node.presence.members(news)} - {self._id}
            await self._wait_answers(others)
        self._is_ready = True
        self._wake()

    async def _wait_answers(self, others: set[str]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        while not others <= self._heard:
            if loop.time() >= end:  # they have died, and their leases have not ended; later answers are taken, too
                logger.info("%d nodes did not answer for the map in %r", len(others - self._heard), self.channel)
                return
            self._tell(asks="*")
            try:
                async with asyncio.timeout(_ASK):
                    while not others <= self._heard:
                        await self._moved.wait()
            except TimeoutError:
                continue

    # Changes.

    async def change(self, change: Change, meta: PublicationMeta) -> Change:
        """Make a change on all nodes; return it as it was made. Raises LimitExceeded."""
        made = msgspec.structs.replace(change, stamp=self._clock + 1, by=f"{self._id}{self._number + 1:x}")
        data, encoded, most = made.encode(), meta.encode(), self._node.limits.ephemeral_bytes - _ROOM
        if len(data) + len(encoded) > most:
            count_limit("ephemeral_bytes")
            raise LimitExceeded(
                f"an entry of {len(data)} bytes is too large for a map that nobody keeps (at most {most})"
            )
        self._number += 1
        self._repeats = _REPEATS
        await self._node.publish(self.channel, data, meta=encoded, ephemeral=True, sender=_sender(change.key))
        return made

    def end(self, key: str) -> None:
        """Remove an entry whose time is over, or whose owner has left; every node does so by itself."""
        (stamp, by), _ = self._newest[key]
        self._show(Change(key, removed=True, stamp=stamp, by=f"{by}~").encode(), CHANGE, time.time())

    def since(self, position: Position) -> list[EphemeralPublication]:
        """Return the newest change of each key that has changed since a place; all of them for one of another life."""
        offset = position.offset if position.epoch == self._id else 0
        return [change for key, (_, change) in self._newest.items() if self.state.last(key) > offset]

    def _take(self, publication: Publication) -> bool:
        """Take a publication of the channel; return whether subscribers are shown it."""
        change = change_of(publication)
        if change is None:
            return True
        if not isinstance(publication, EphemeralPublication):
            if change.left:
                self._let_go(change.left)
            return True
        if not self._is_merging:
            made = maker_of(change.by)
            if made is None:
                return _refuse()
            author, number = made
            if author != self._id and self._readers.note(author, number):
                self._ask(author)
            publication = msgspec.structs.replace(publication, time=time.time())
        return self._apply(change, publication)

    def _apply(self, change: Change, publication: EphemeralPublication) -> bool:
        key, stamp = change.key, (change.stamp, change.by)
        if not key or change.stamp > self._clock + _LEAP:
            return _refuse()
        known = self._newest.get(key)
        self._clock = max(self._clock, change.stamp)
        if (known is not None and known[0] >= stamp) or change.owner in self._left:
            return False
        was_there = key in self.state.entries
        place = self.state.position.offset + 1
        if self.state.apply(msgspec.structs.replace(publication, offset=place, epoch=self._id)) is None:
            return _refuse()
        self._newest[key] = stamp, publication
        for name in self.state.forgotten:
            del self._newest[name]
        return was_there or not change.removed

    def _show(self, data: bytes, meta: bytes, at: float) -> None:
        """Take a change that comes in no publication of its own, and show it to the subscribers of this node."""
        publication = EphemeralPublication(self.channel, 0, 0, "", at, data, Format.JSON, meta)
        change = change_of(publication)
        if change is None:
            _refuse()
            return
        before, self._is_merging = self._is_merging, True
        try:
            self._node.fanout.ephemeral.add(msgspec.structs.replace(publication, sender=_sender(change.key)))
        finally:
            self._is_merging = before

    # Owners.

    def _let_go(self, owner: str) -> None:
        self._left[owner] = None
        if len(self._left) > _REMEMBERED:
            self._left.popitem(last=False)
        self._end_all(owner)

    def _end_all(self, owner: str) -> None:
        for key in self.state.keys_of(owner):
            self.end(key)

    async def _check_owners(self) -> None:
        """Remove entries, taken from another node, of owners that had left before this one began to listen."""
        if not self._doubts or not self.state.owners:
            return
        try:
            members = await self._node.presence.members(owners(self.channel))
        except StoreUnavailable:
            return  # the next look is for the same doubt
        self._doubts -= 1
        absent = self.state.owners - {member.connection for member in members}
        for owner in absent & self._absent:
            self._end_all(owner)
        self._absent = absent

    # The talk of the nodes.

    def _ask(self, author: str) -> None:
        """Ask a reader for changes that have not come."""
        count_limit("map_gap")
        self._readers.ask(author)
        self._tell(asks=author)

    def _tell(self, *, asks: str = "") -> None:
        self._send(News(self._id, self._number, asks))

    def _send(self, news: News) -> None:
        sender = f"{self._id}.{news.answer}.{news.part}.{news.asks}"
        self._node.fanout.ephemeral.publish(
            EphemeralPublication(copies(self.channel), 0, 0, "", time.time(), news.encode(), Format.BINARY, b"", sender)
        )

    def _hear(self, publication: Publication) -> None:
        news = decode_news(publication.data)
        if news is None:
            _refuse()
            return
        if news.by == self._id:
            return
        if news.asks in ("*", self._id) and self._answering is None:
            loop = asyncio.get_running_loop()
            self._answering = loop.call_at(max(loop.time() + _ANSWER, self._answered_at + _PAUSE), self._answer)
        if news.parts:
            self._merge(news)
        elif self._readers.note(news.by, news.number, has_come=False):
            self._ask(news.by)

    def _answer(self) -> None:
        self._answering = None
        self._answered += 1
        self._answered_at = asyncio.get_running_loop().time()
        parts = list(parts_of([one for _, one in self._newest.values()], time.time(), _PART))
        known = {**self._readers.numbers, self._id: self._number}
        for number, part in enumerate(parts):
            self._send(News(self._id, self._number, "", self._answered, number, len(parts), part, known))
            known = {}

    def _merge(self, news: News) -> None:
        now = time.time()
        for one in news.changes:
            self._show(one.data, one.meta, now - one.age)
        self._doubts = 2
        if not self._readers.has_answered(news):
            return
        if not self._is_ready:
            self._heard.add(news.by)
        self._wake()

    async def look(self) -> None:
        """Repeat news that may have been lost, and end entries that are over; called every second."""
        for key, entry in tuple(self.state.entries.items()):
            if entry.ttl and entry.time + entry.ttl <= time.time():
                self.end(key)
        if self._repeats:
            self._repeats -= 1
            self._tell()
        for author in self._readers.to_ask():
            self._tell(asks=author)
        await self._check_owners()


def check_expect(expect: int | None) -> None:
    """Refuse to compare: no store says which of two nodes was first."""
    if expect is not None:
        raise BadRequest("expect= needs a map that is kept; leave ephemeral=True out of its rule, or expect= here")


def _refuse() -> bool:
    """Count a change or news of a form that is not understood, and leave it out."""
    count_limit("relay")
    return False


def _sender(key: str) -> str:
    """Return the sender of changes of a key, which no client can be: of each, a slow subscriber gets the newest."""
    return f"$map:{key}"
