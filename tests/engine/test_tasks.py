"""The node's tasks, and what their failures say about the store."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tidewire.backends.shared.outage import Outage
from tidewire.engine import tasks as tasks_module
from tidewire.engine.tasks import Tasks
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.testing import wait_until

from .support import run, turns


def test_a_step_that_fails_degrades_until_it_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.01)
    failures: list[Exception] = [StoreUnavailable("away"), NotPublished("away"), StoreUnavailable("away")]
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        if failures:
            raise failures.pop()

    async def main() -> None:
        tasks = Tasks()
        tasks.start([("step", 0.01, step), ("calm", 60.0, step)])
        await wait_until(lambda: tasks.degraded)
        await wait_until(lambda: not tasks.degraded)
        assert calls >= 4
        await tasks.aclose(0.0)

    with caplog.at_level(logging.WARNING, "tidewire"):
        run(main())
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "the store is away",
        "the store is back",
    ]


def test_what_fails_and_works_in_turns_is_told_of_once_and_what_lasts_soon(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server of a cluster, or one channel, may be away while others are there."""
    monkeypatch.setattr(tasks_module, "_PUBLISH_MEMORY", 0.2)

    async def main() -> None:
        tasks, outage = Tasks(), Outage("the server")
        for _ in range(100):
            tasks.failed("publish", NotPublished("full"))
            outage.begins(tasks, "full")
            tasks.worked("publish")
            outage.ends(tasks)
        assert not tasks.degraded
        told = [record.message.partition(" (")[0] for record in caplog.records]
        assert told == ["the store is away", "the server is away", "the store is back", told[-1]]

        async def is_told() -> bool:
            tasks.failed("step", StoreUnavailable("away"))
            return len(caplog.records) == 5

        await wait_until(is_told)
        assert caplog.messages[-1].startswith("the store is away (away)")
        assert "more since the last line" in caplog.messages[-1]

    with caplog.at_level(logging.WARNING, "tidewire"):
        run(main())


def test_a_bug_in_a_step_is_logged_and_the_step_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        raise ValueError("a bug")

    async def main() -> None:
        tasks = Tasks()
        tasks.start([("step", 0.001, step)])
        await wait_until(lambda: calls > 3)
        assert not tasks.degraded
        await tasks.aclose(0.0)

    run(main())
    assert "the regular step 'step' failed" in caplog.text


def test_all_steps_are_taken_at_once_when_the_store_is_back() -> None:
    calls: list[str] = []
    goes_on = asyncio.Event()

    async def calm() -> None:
        calls.append("calm")

    async def slow() -> None:
        calls.append("slow")
        await goes_on.wait()

    async def main() -> None:
        tasks = Tasks()
        tasks.start([("calm", 60.0, calm), ("slow", 60.0, slow)])
        await turns(2)
        tasks.hurry()
        await turns(3)
        assert sorted(calls) == ["calm", "slow"]
        tasks.hurry()  # what the slow one reads now may be from before
        goes_on.set()
        await turns(3)
        assert sorted(calls) == ["calm", "calm", "slow", "slow"]
        await tasks.aclose(0.0)

    run(main())


def test_failed_publishing_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.01)

    async def step() -> None:
        return

    async def main() -> None:
        tasks = Tasks()
        tasks.start([("step", 0.01, step)])
        tasks.failed("publish", NotPublished("away"))
        for _ in range(5):
            await asyncio.sleep(0.01)
            assert tasks.degraded, "reading works, but nobody has published since"
        monkeypatch.setattr(tasks_module, "_PUBLISH_MEMORY", 0.05)
        await wait_until(lambda: not tasks.degraded)
        await tasks.aclose(0.0)

    run(main())


def test_closing_lets_short_tasks_finish_and_ends_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def short() -> None:
        await turns(3)
        done.append("short")

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append("endless")

    async def failing() -> None:
        raise ValueError("a bug in the background")

    async def main() -> None:
        tasks = Tasks()
        for work in (short, endless, failing):
            assert tasks.spawn(work()) is not None
        await tasks.aclose(0.05)
        assert done == ["short", "endless"]
        assert tasks.spawn(short()) is None

    run(main())
    assert "a background step failed" in caplog.text
