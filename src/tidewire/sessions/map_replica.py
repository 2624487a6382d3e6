"""One map on this node; where it is kept, a copy that the newest whole one began, and that every change goes on."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import attrgetter

import msgspec

from tidewire.channels import copies
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, CutOff, LimitExceeded, PublishError, StoreUnavailable, TidewireError
from tidewire.messages import Position, PublishRequest
from tidewire.protocols.map_changes import Change, Copy, MapState
from tidewire.protocols.meta import CHANGE
from tidewire.retention import Retention
from tidewire.sessions.listening import Publications
from tidewire.support.counters import count_limit

__all__ = ("KeptReplica", "Replica")

logger = logging.getLogger("tidewire")

#: Whole copies are for ever; one is being read while the next is written.
_COPIES = Retention(2, 1e9)
#: Seconds without a change after which a whole copy is kept; other nodes wait longer, for when this one has died.
_QUIET, _LATER = 5.0, 10.0
#: The same as shares of the time for which history is kept, where that is short.
_QUIET_SHARE, _LATER_SHARE = 0.2, 0.4
#: Seconds before the map is read again; before a newer copy is looked for, where history does not reach back to one.
_RETRY, _AGAIN = 0.5, 0.25

_offset = attrgetter("position.offset")


class Replica(ABC):
    """The entries of one map as this node has them."""

    def __init__(self, node: Node, channel: str) -> None:
        self._node = node
        self.channel = channel
        self.state = MapState()
        self._is_ready = False
        self._moved = asyncio.Event()
        self.used_at = asyncio.get_running_loop().time()

    @property
    @abstractmethod
    def is_needed(self) -> bool:
        """Whether entries would be lost, or stay too long, without this one."""

    @abstractmethod
    async def aclose(self) -> None:
        """Read no more."""

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def wait_ready(self) -> MapState:
        """Return the map as this node has it; raises StoreUnavailable."""
        self.used_at = asyncio.get_running_loop().time()
        return await self._wait(lambda: self._is_ready)

    async def wait_current(self) -> MapState:
        """Return the map with every change that was made on any node before; raises StoreUnavailable."""
        return await self.wait_ready()

    async def _wait(self, holds: Callable[[], bool]) -> MapState:
        try:
            async with asyncio.timeout(self._node.limits.publish_seconds * 2):
                while not holds():
                    await self._moved.wait()
        except TimeoutError:
            raise StoreUnavailable(f"the map in {self.channel!r} cannot be read now; try again") from None
        return self.state


class KeptReplica(Replica):
    """Reads the channel until `aclose`. The store keeps a whole copy now and then, so that history is long enough.

    Changes wait for a copy that would push others out of history before any copy has them.
    """

    def __init__(self, node: Node, channel: str, retention: Retention) -> None:
        super().__init__(node, channel)
        self._size = retention.size
        #: Publications after which a whole copy is kept at once: history must reach back to the one before.
        self._every = max(1, retention.size // 2)
        self._quiet = min(_QUIET, retention.age * _QUIET_SHARE)
        self._later = min(_LATER, retention.age * _LATER_SHARE)
        #: Offsets of the newest copy that is kept, and of the newest change.
        self._copied_at = self._changed_at = 0
        #: Changes of this node on their way, when the last one began, and the turns of those that have no room yet.
        self._under_way = 0
        self._began_at = 0.0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._copying: asyncio.TimerHandle | None = None
        self._copied: asyncio.Task[None] | None = None
        #: The store has not taken the newest copy, which was too large for it.
        self._is_too_large = False
        self._is_closed = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_needed(self) -> bool:
        """Whether entries leave with their owners, which this one has to show."""
        return bool(self.state.owners)

    async def aclose(self) -> None:
        """Stop reading, and keep the changes since the last whole copy."""
        self._is_closed = True
        if self._copying is not None:
            self._copying.cancel()
        if self._copied is not None:
            await asyncio.wait([self._copied])
        await self._copy_now()
        self._task.cancel()
        await asyncio.wait([self._task])

    # Reading.

    async def _run(self) -> None:
        while not self._is_closed:
            try:
                await self._read()
            except (CutOff, StoreUnavailable) as error:
                logger.info("the map in %r is read again: %s", self.channel, error)
            except TidewireError:
                logger.exception("the map in %r cannot be read yet", self.channel)
            self._is_ready = False
            await asyncio.sleep(_RETRY)

    async def _read(self) -> None:
        copy = await self._newest_copy()
        while not await self._read_from(copy):
            await asyncio.sleep(_AGAIN)  # a node that has all changes keeps a newer copy meanwhile
            before, copy = copy, await self._newest_copy()
            if copy == before:
                if copy is not None:
                    logger.info("history of the map in %r does not reach back to its last whole copy", self.channel)
                await self._read_from(copy, anyway=True)
                return

    async def _read_from(self, copy: Copy | None, *, anyway: bool = False) -> bool:
        """Read on from a copy; return False at once where history does not reach back to it."""
        since = Position(0, "") if copy is None else copy.position
        publications = Publications(self._node, self.channel, since, self._size, ends_with_server=False)
        async with publications:
            state = MapState(copy)
            missed = publications.missed
            changes = [change for _ in range(missed) if (change := state.apply(await anext(publications)))]
            if not (anyway or publications.recovered):
                return False
            state.position = publications.joined_at
            # a channel that the store forgot counts from 1 again, in another epoch
            self._copied_at = since.offset if since.epoch == state.position.epoch else 0
            self._changed_at = state.position.offset if changes else 0
            self.state, self._is_ready, self._is_too_large = state, True, False
            self._go_on()
            if changes:
                self._copy_later(self._later)
            async for publication in publications:
                if publication.offset:
                    self._took(state.apply(publication))
        return True

    async def _newest_copy(self) -> Copy | None:
        page = await self._node.broker.history(copies(self.channel), limit=_COPIES.size, reverse=True)
        found = [msgspec.json.decode(one.data, type=Copy) for one in page.publications]
        # that of a slow node may come behind a newer one
        return max((one for one in found if one.position.epoch == found[0].position.epoch), key=_offset, default=None)

    def _took(self, change: Change | None) -> None:
        is_own = change is not None and change.by.startswith(self._node.id)
        if change is not None:
            self._changed_at = self.state.position.offset
            self._copy_later(self._quiet if is_own else self._later)
            if change.left:
                for key in self.state.left:
                    self._node.tasks.spawn(self.show_removed(key, self.state.position))
        if self._waiting >= self._every and (is_own or change is None or change.left):
            self._copy_soon()
        self._go_on()

    async def wait_current(self) -> MapState:
        """Return the map with every change that was kept on any node before; raises StoreUnavailable."""
        await self.wait_ready()
        try:
            return await self.wait_reached((await self._node.broker.positions((self.channel,)))[self.channel])
        except StoreUnavailable:
            if self._node.broker.shared or not self._is_ready:
                raise
            return self.state  # history shows nothing of what came last, and no other node has changed anything

    async def wait_reached(self, position: Position) -> MapState:
        """Return the map at a position or a later one; raises StoreUnavailable."""
        return await self._wait(
            lambda: (
                self._is_ready
                and (self.state.position.offset >= position.offset or self.state.position.epoch != position.epoch)
            )
        )

    async def show_removed(self, key: str, at: Position) -> None:
        """Publish that an entry was removed, unless it has changed since; once, even if several nodes do.

        Clients that know no owners learn by it that the entry has left with its owner.
        """
        change = Change(key, removed=True, by=f"{self._node.id}-left")
        try:
            async with self.room():
                await self.publish(change, CHANGE, at)
        except (PublishError, StoreUnavailable) as error:
            logger.info("the removal of %r in %r was not shown: %s", key, self.channel, error)

    async def publish(self, change: Change, meta: bytes, behind: Position, taken: int = 0) -> Position:
        """Publish a change behind the newest one of its key: of two behind the same one, the store keeps the first.

        `taken` is the offset of what has this change's token, although it is no change of the key.
        """
        token = f"map:{change.key}:{behind.epoch}:{behind.offset}" + (f":{taken}" if taken else "")
        return await self._node.publish(self.channel, change.encode(), key=token, meta=meta, ephemeral=False)

    # Whole copies.

    @property
    def _waiting(self) -> int:
        """The publications since the last whole copy, if a change is among them."""
        return self.state.position.offset - self._copied_at if self._changed_at > self._copied_at else 0

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Make a change in history's room for those that are in no whole copy; raises StoreUnavailable."""
        loop, most = asyncio.get_running_loop(), self._node.limits.publish_seconds * 2
        turn = loop.create_future()
        self._turns.append(turn)
        if len(self._turns) == 1:
            self._began_at = loop.time()
        self._give_turns()
        try:
            while not turn.done():
                await asyncio.wait([turn], timeout=most)
                if not turn.done() and loop.time() - self._began_at >= most:
                    raise StoreUnavailable(f"the map in {self.channel!r} cannot be kept now; try again")
            yield
        finally:
            if turn.done():
                self._under_way -= 1
            else:
                self._turns.remove(turn)
            self._give_turns()

    def _give_turns(self) -> None:
        """Begin the changes for which there is room, in the order in which they came."""
        while self._turns and (self._is_too_large or self._waiting + self._under_way < self._every):
            self._under_way += 1
            self._began_at = asyncio.get_running_loop().time()
            self._turns.popleft().set_result(None)
        if self._turns and self._waiting:
            self._copy_soon()

    def _go_on(self) -> None:
        """Take note of a publication that has come, a copy that is kept, or a map that was read anew."""
        self._give_turns()
        self._wake()

    def _copy_later(self, seconds: float) -> None:
        if self._copying is None and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._copying = loop.call_later(seconds * random.uniform(1.0, 1.5), self._copy_soon)

    def _copy_soon(self) -> None:
        if self._copied is None or self._copied.done():
            self._copied = self._node.tasks.spawn(self._copy_now())

    async def _copy_now(self) -> None:
        """Keep the whole map; several nodes that do so at the same position keep it once."""
        if self._copying is not None:
            self._copying.cancel()
            self._copying = None
        if not self._is_ready or self._changed_at <= self._copied_at:
            return
        copy = self.state.copy()
        request = PublishRequest(
            copies(self.channel), msgspec.json.encode(copy), key=f"copy:{copy.position}", retention=_COPIES
        )
        try:
            await self._node.broker.publish(request)
        except PublishError as error:
            logger.info("the map in %r was not copied: %s", self.channel, error)
            self._copy_later(self._quiet)
        except BadRequest as error:  # the store takes no publication of that size
            if not self._is_too_large:
                logger.error("the map in %r takes no entries until it can be kept whole: %s", self.channel, error)
            self._is_too_large = True
            self._copy_later(self._quiet)
            self._give_turns()
        else:
            self._is_too_large = False
            if self.state.position.epoch == copy.position.epoch:
                self._copied_at = copy.position.offset
            self._copied = None  # the next may begin: others may have filled the room meanwhile
            self._go_on()

    def check_size(self) -> None:
        """Refuse an entry of a map that the store cannot keep whole: history alone forgets. Raises LimitExceeded."""
        if self._is_too_large:
            count_limit("map_bytes")
            raise LimitExceeded(
                f"the map in {self.channel!r} has more than a publication of this store may have; remove entries first"
            )
