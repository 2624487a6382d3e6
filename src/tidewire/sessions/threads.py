"""Calls from threads: coroutine functions of the application's event loop, for code that has none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from tidewire.errors import ConfigurationError
from tidewire.support.thread_calls import context_of_thread

__all__ = ("LoopFuture", "ThreadCalls", "check_loop", "running_loop")

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def check_loop(loop: asyncio.AbstractEventLoop, *, reads: bool = False) -> None:
    """Raise ConfigurationError outside of an event loop; where nothing is awaited (`reads`), a thread may ask, too."""
    running = running_loop()
    if running is not loop and not (reads and running is None):
        raise ConfigurationError(
            "this runs outside of the event loop that the hub was opened on; from a plain `def` or a thread write "
            "hub.from_thread(hub.publish, …), from another loop await asyncio.to_thread(hub.from_thread, …)"
        )


class LoopFuture(Future[T], Generic[T]):
    """The outcome of a call from a thread; waiting for it on the event loop that has to do the work raises at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result; raises as the call does."""
        self._check()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the exception, or None."""
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if not self.done() and running_loop() is self._loop:
            raise ConfigurationError(
                "waiting here would stop the event loop that has to do the work, for ever; "
                "write `await hub.publish(…)` in `async def`"
            )


class ThreadCalls:
    """Begins coroutine functions on one event loop, and owns their tasks."""

    __slots__ = ("_loop", "_process", "_tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._process = os.getpid()
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> LoopFuture[T]:
        """Begin something on the event loop, in the order of these calls; raises ConfigurationError when that ended."""
        if os.getpid() != self._process:
            raise ConfigurationError(
                "this process was forked from the one that opened the hub, and its copy of the event loop does not "
                "run; publish with a Publisher(url) that is made here"
            )
        future: LoopFuture[T] = LoopFuture(self._loop)

        def begin() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                begun = work()
            except Exception as error:
                future.set_exception(error)  # nobody may wait for ever
                return
            if not asyncio.iscoroutine(begun):
                future.set_exception(_no_coroutine(begun))
                return
            task = self._loop.create_task(begun)
            self._tasks.add(task)
            task.add_done_callback(lambda task: self._settle(future, task))

        try:
            self._loop.call_soon_threadsafe(begin, context=context_of_thread())
        except RuntimeError:
            raise ConfigurationError("the event loop of this hub has ended; call while the application runs") from None
        return future

    def _settle(self, future: LoopFuture[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        error = CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


def _no_coroutine(given: object) -> ConfigurationError:
    return ConfigurationError(
        f"this call from a thread gave a {type(given).__name__}, and nothing to wait for; give a function that is "
        "`async def`, as from_thread(hub.publish, …): hub.listen is for the event loop, and a plain function "
        "is called directly"
    )
