"""The tasks of a node, their end, and how their failures show that the store is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from tidewire.errors import PublishError, StoreUnavailable
from tidewire.support.log_limit import LogLimit

__all__ = ("Step", "Tasks")

logger = logging.getLogger("tidewire")

#: A regular step: its name, the seconds between two of them, and its function.
Step = tuple[str, float, Callable[[], Awaitable[None]]]
#: Seconds between two tries of a step that fails.
_RETRY_SECONDS = 0.5
#: Seconds for which failed publishing counts, unless a publish succeeds before; and from one told outage to the next.
_PUBLISH_MEMORY = 10.0


class Tasks:
    """Owns a node's tasks. A store's failure is logged once and marks the node degraded until it is over."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loops: list[asyncio.Task[None]] = []
        #: Found at the first task: to ask for it is a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._publish_failed = 0.0
        self._log_limit = LogLimit(_PUBLISH_MEMORY)
        self._is_logged = False
        #: Set when all steps are due; the next one takes its place.
        self._due = asyncio.Event()
        #: The regular steps that failed last time, and "publish".
        self.failing: set[str] = set()
        self.is_closed = False

    @property
    def degraded(self) -> bool:
        """The store is away."""
        return bool(self.failing)

    def start(self, steps: Sequence[Step]) -> None:
        """Begin the regular steps."""
        loop = asyncio.get_running_loop()
        for name, seconds, step in steps:
            self._loops.append(loop.create_task(self._repeat(name, seconds, step), name=f"tidewire-{name}"))

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that has no end of its own until `aclose`."""
        self._loops.append(asyncio.get_running_loop().create_task(work))

    async def aclose(self, grace: float) -> None:
        """Stop the regular steps, let short tasks finish for some seconds, and end the rest."""
        self.is_closed = True
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=grace)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
        """Run something short in the background; its failure is logged. After `aclose` nothing is begun: None."""
        if self.is_closed:
            work.close()
            return None
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StoreUnavailable):
            logger.error("a background step failed", exc_info=error)

    def failed(self, name: str, error: Exception) -> None:
        """Remember that the store failed; "publish" is a name like that of a step."""
        if name == "publish":
            self._publish_failed = asyncio.get_running_loop().time()
        if not self._is_logged and (more := self._log_limit.due()) is not None:
            self._is_logged = True
            logger.warning("the store is away (%s); publishing fails until it is back, clients stay%s", error, more)
        self.failing.add(name)

    def worked(self, name: str) -> None:
        """Remember that the store works."""
        if name in self.failing:
            self.failing.discard(name)
            if not self.failing and self._is_logged:
                self._is_logged = False
                logger.warning("the store is back")

    def hurry(self) -> None:
        """Take all steps at once: the store was away, and is back. One that runs now is taken again after that."""
        due, self._due = self._due, asyncio.Event()
        due.set()

    async def _repeat(self, name: str, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        due = self._due
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS if name in self.failing else seconds):
                    await due.wait()
            due = self._due
            try:
                await step()
            except (StoreUnavailable, PublishError) as error:
                self.failed(name, error)
            except Exception:
                logger.exception("the regular step %r failed", name)
            else:
                self.worked(name)
                if asyncio.get_running_loop().time() - self._publish_failed > _PUBLISH_MEMORY:
                    self.worked("publish")
