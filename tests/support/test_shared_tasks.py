"""Tasks that serve many callers: their context, and threads that a function that hangs does not use up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from helpers.counting import reached
from tidewire.support.shared_tasks import FunctionHangs, SharedTasks, call_in_thread
from tidewire.testing import wait_until

USER: ContextVar[str] = ContextVar("user", default="nobody")


def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


async def give_up(tasks: SharedTasks, function: Callable[[], Any]) -> None:
    """Call a function that hangs, and wait no longer."""
    running = len(tasks._running)
    task = tasks.spawn(call_in_thread(function, function))
    assert task is not None
    await wait_until(lambda: len(tasks._running) > running, what="the call has a thread")
    task.cancel()
    await asyncio.wait([task])


def test_a_task_has_the_context_of_its_owner_and_of_no_caller() -> None:
    async def main() -> None:
        USER.set("the application")
        tasks = SharedTasks(begin, 2, "state_threads")
        USER.set("ann")

        async def read() -> tuple[str, str]:
            here = USER.get()
            USER.set("of another call")
            return here, await call_in_thread(read, lambda: threading.current_thread().name)

        for _ in range(2):
            task = tasks.spawn(read())
            assert task is not None
            context, thread = await task
            assert (context, thread[:15]) == ("the application", "tidewire-shared")
        tasks.close()

    asyncio.run(main())


def test_calls_of_one_function_that_hang_take_half_of_the_threads(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        tasks, gate = SharedTasks(begin, 4, "state_threads"), threading.Event()
        try:
            for _ in range(2):
                await give_up(tasks, gate.wait)
            with pytest.raises(FunctionHangs, match=r"2 calls hang, each in a thread \(state_threads\)"):
                await tasks.call(gate.wait, gate.wait)
            assert await tasks.call(len, lambda: 1) == 1, "others are called"
            gate.set()
            await wait_until(lambda: not tasks._running, what="the calls have returned")
            assert await tasks.call(gate.wait, gate.wait) is True
        finally:
            gate.set()
            tasks.close()

    asyncio.run(main())


def test_it_is_told_when_all_threads_are_in_use(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        tasks, gate = SharedTasks(begin, 2, "state_threads"), threading.Event()
        before = reached()["state_threads"]
        try:
            for function in (lambda: gate.wait(), lambda: gate.wait()):
                await give_up(tasks, function)
            waiting = asyncio.create_task(tasks.call(len, lambda: 1))
            await asyncio.sleep(0)
            assert not waiting.done()
            assert reached()["state_threads"] == before + 1
            gate.set()
            assert await waiting == 1
        finally:
            gate.set()
            tasks.close()

    with caplog.at_level(logging.WARNING, logger="tidewire"):
        asyncio.run(main())
    assert "all 2 threads of shared tasks are in use (state_threads)" in caplog.text
