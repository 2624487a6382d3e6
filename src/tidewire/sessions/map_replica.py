"""One map on this node; where it is kept, a copy that the newest whole one began, and that every change goes on."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable

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
_RETRY = 0.5


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
    """Reads the channel until `aclose`. The store keeps a whole copy now and then, so that history is long enough."""

    def __init__(self, node: Node, channel: str, size: int) -> None:
        super().__init__(node, channel)
        self._size = size
        #: Changes after which a whole copy is kept at once: history must reach back to the one before.
        self._every = max(1, size // 2)
        self._copied_at = 0
        self._copying: asyncio.TimerHandle | None = None
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
        since = Position(0, "") if copy is None else copy.position
        publications = Publications(self._node, self.channel, since, self._size)
        async with publications:
            if copy is not None and not publications.recovered:
                logger.warning("changes of the map in %r are lost; it goes on from its last whole copy", self.channel)
            state = MapState(copy)
            missed = publications.missed
            for _ in range(missed):
                state.apply(await anext(publications))
            state.position = publications.joined_at
            self._copied_at = 0 if copy is None else copy.position.offset
            self.state, self._is_ready = state, True
            self._wake()
            if missed:
                self._copy_later(_LATER)
            async for publication in publications:
                if publication.offset:
                    self._took(state.apply(publication))

    async def _newest_copy(self) -> Copy | None:
        page = await self._node.broker.history(copies(self.channel), limit=1, reverse=True)
        return msgspec.json.decode(page.publications[0].data, type=Copy) if page.publications else None

    def _took(self, change: Change | None) -> None:
        self._wake()
        if change is None:
            return
        if change.left:
            for key in self.state.left:
                self._node.tasks.spawn(self._show_removed(key, self.state.position))
        is_own = change.by.startswith(self._node.id)
        if is_own and self.state.position.offset - self._copied_at >= self._every:
            self._node.tasks.spawn(self._copy_now())
        else:
            self._copy_later(_QUIET if is_own else _LATER)

    async def wait_current(self) -> MapState:
        """Return the map with every change that was kept on any node before; raises StoreUnavailable."""
        await self.wait_ready()
        if not self._node.broker.shared:
            return self.state
        return await self.wait_reached((await self._node.broker.positions((self.channel,)))[self.channel])

    async def wait_reached(self, position: Position) -> MapState:
        """Return the map at a position or a later one; raises StoreUnavailable."""
        return await self._wait(
            lambda: (
                self._is_ready
                and (self.state.position.offset >= position.offset or self.state.position.epoch != position.epoch)
            )
        )

    async def _show_removed(self, key: str, left_at: Position) -> None:
        """Tell clients that know no owners of a key that left with its owner; once, even if several nodes do."""
        change = Change(key, removed=True, by=f"{self._node.id}-left")
        token = f"map:{key}:{left_at.epoch}:{left_at.offset}"  # behind the leave, unless it was set anew
        try:
            await self._node.publish(self.channel, change.encode(), key=token, meta=CHANGE, ephemeral=False)
        except PublishError as error:
            logger.info("the removal of %r in %r was not shown: %s", key, self.channel, error)

    # Whole copies.

    def _copy_later(self, seconds: float) -> None:
        if self._copying is None and not self._is_closed:
            loop = asyncio.get_running_loop()
            wait = seconds * random.uniform(1.0, 1.5)
            self._copying = loop.call_later(wait, lambda: self._node.tasks.spawn(self._copy_now()))

    async def _copy_now(self) -> None:
        """Keep the whole map; several nodes that do so at the same position keep it once."""
        if self._copying is not None:
            self._copying.cancel()
            self._copying = None
        copy = self.state.copy()
        if not self._is_ready or copy.position.offset <= self._copied_at:
            return
        before, self._copied_at = self._copied_at, copy.position.offset
        request = PublishRequest(
            copies(self.channel), msgspec.json.encode(copy), key=f"copy:{copy.position}", retention=_COPIES
        )
        try:
            await self._node.broker.publish(request)
        except PublishError as error:
            self._copied_at = before
            logger.info("the map in %r was not copied: %s", self.channel, error)
            self._copy_later(_QUIET)
        except BadRequest as error:  # the store takes no publication of that size
            self._copied_at = before
            if not self._is_too_large:
                logger.error("the map in %r takes no entries until it can be kept whole: %s", self.channel, error)
            self._is_too_large = True
        else:
            self._is_too_large = False

    def check_size(self) -> None:
        """Refuse an entry of a map that the store cannot keep whole: history alone forgets. Raises LimitExceeded."""
        if self._is_too_large:
            count_limit("map_bytes")
            raise LimitExceeded(
                f"the map in {self.channel!r} has more than a publication of this store may have; remove entries first"
            )
