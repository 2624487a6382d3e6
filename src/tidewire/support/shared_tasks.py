"""Tasks that serve many callers at once: none has the context of one of them, and their threads are their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, TypeVar

from tidewire.support.counters import count_limit
from tidewire.support.log_limit import LogLimit

__all__ = ("FunctionHangs", "SharedTasks", "call_in_thread")

logger = logging.getLogger("tidewire")

T = TypeVar("T")
#: Begins a task that somebody owns; None when that is over.
Begin = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any] | None]


class FunctionHangs(Exception):
    """Raised for a function that is not called: earlier calls of it have not returned, and nobody waits for them."""


async def call_in_thread(function: Any, call: Callable[[], T]) -> T:
    """Make a call of a function in a thread: for a shared task in one of its own, else as `asyncio.to_thread`."""
    threads = _THREADS.get()
    return await (asyncio.to_thread(call) if threads is None else threads.call(function, call))


class SharedTasks:
    """Begins tasks in the context in which it was made itself, with threads that nobody else uses.

    A function that hangs keeps its thread after its caller gave up. The calls of one function keep half of the threads
    at most (`most`, the limit `name`), and never those of the event loop.
    """

    def __init__(self, begin: Begin, most: int, name: str) -> None:
        self._begin = begin
        self._most, self._name = most, name
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="tidewire-shared")
        #: The calls that have a thread, and those of each function for which nobody waits any more.
        self._running: set[object] = set()
        self._left: dict[Any, set[object]] = {}
        self._log_limit = LogLimit()
        self._context = copy_context()
        self._context.run(_THREADS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
        """Begin a task, as `begin` does."""
        return self._context.copy().run(self._begin, work)

    async def call(self, function: Any, call: Callable[[], T]) -> T:
        """Make a call of a function in a thread; raises FunctionHangs."""
        hung = self._left[function] = self._left.get(function, set()) & self._running
        if len(hung) * 2 >= self._most:
            raise FunctionHangs(f"{len(hung)} calls hang, each in a thread ({self._name}); give its driver a timeout")
        if len(self._running) >= self._most:
            count_limit(self._name)
            if (more := self._log_limit.due()) is not None:
                logger.warning("all %d threads of shared tasks are in use (%s)%s", self._most, self._name, more)
        token = object()
        made = partial(copy_context().run, self._run, token, call)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, made)
        except asyncio.CancelledError:
            self._left[function].add(token)
            raise

    def _run(self, token: object, call: Callable[[], T]) -> T:
        self._running.add(token)
        try:
            return call()
        finally:
            self._running.discard(token)

    def close(self) -> None:
        """Begin no more calls; those that hang are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


#: The threads of the shared task that runs.
_THREADS: ContextVar[SharedTasks | None] = ContextVar("tidewire.shared_tasks", default=None)
