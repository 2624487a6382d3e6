"""What lists of runs are told: of each run the newest, each user their own, also over an outage of the store."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tidewire import Hub, NotPublished
from tidewire.pipelines.notices import ListNews, Notices, list_channel
from tidewire.pipelines.runs import Run, RunStatus, StepState, StepStatus

STEPS = (StepState("a", "A", 1.0, (), 1, StepStatus.DONE, 100, started=2.0), StepState("b", "B", 1.0, ("a",), 1))


def run(number: int, user: str, *, progress: int = 0) -> Run:
    return Run(f"r{number}", "p", "P", "S", user, 1.0, (), STEPS, RunStatus.RUNNING, progress)


async def told(hub: Hub, user: str) -> list[ListNews]:
    page = await hub.history(list_channel(user))
    return [msgspec.json.decode(publication.data, type=ListNews) for publication in page.publications]


def test_of_each_run_the_newest_in_publications_of_bounded_size() -> None:
    async def scenario() -> None:
        async with Hub() as hub:
            notices = Notices(hub)
            for progress in (1, 2):
                for number in range(60):
                    notices.changed(run(number, "ann", progress=progress), 7)
            notices.changed(run(60, "bob"), 1)
            notices.removed("r1", "ann")
            notices.open()
            await notices.aclose()  # what is left is told at the end
            first, second = await told(hub, "ann")
            assert (len(first.changed), len(second.changed), first.removed) == (49, 10, ("r1",))
            assert {notice.progress for notice in first.changed + second.changed} == {2}
            assert list(first.changed[0].steps) == ["a"]
            (his,) = await told(hub, "bob")
            assert [notice.run for notice in his.changed] == ["r60"]
            assert sum(len(news.changed) + len(news.removed) for news in await told(hub, "")) == 61

    asyncio.run(scenario())


def test_what_an_outage_held_back_is_told_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Hub() as hub:
            publish, refused = hub.node.publish, asyncio.Event()

            async def refusing(*arguments: Any, **options: Any) -> Any:
                refused.set()
                raise NotPublished("the store is away")

            monkeypatch.setattr(hub.node, "publish", refusing)
            notices = Notices(hub)
            notices.open()
            notices.changed(run(1, "", progress=1), 1)
            notices.removed("r2", "")
            async with asyncio.timeout(10):
                await refused.wait()
            notices.changed(run(1, "", progress=2), 2)
            monkeypatch.setattr(hub.node, "publish", publish)
            news: list[ListNews] = []

            async def listen() -> None:
                while not news:
                    news.extend(await told(hub, ""))
                    await asyncio.sleep(0.02)

            async with asyncio.timeout(10):
                await listen()
            await notices.aclose()
            assert [(notice.seq, notice.progress) for notice in news[0].changed] == [(2, 2)]
            assert news[0].removed == ("r2",)

    asyncio.run(scenario())
