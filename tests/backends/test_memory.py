"""What the memory store promises beyond the contract that every store keeps."""

from __future__ import annotations

import time

import pytest

from engine.support import run
from tidewire.backends.memory import MemoryBroker
from tidewire.messages import PublishRequest
from tidewire.retention import Retention


@pytest.mark.parametrize("jump", [-3_600, 2 * 86_400])
def test_a_jump_of_the_wall_clock_ages_nothing(monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    async def main() -> None:
        broker = MemoryBroker()
        await broker.start(lambda _: None)
        day = Retention(100, 86_400)
        first = await broker.publish(PublishRequest("a", b"before", key="once", retention=day))
        true = time.time
        monkeypatch.setattr("tidewire.backends.memory.time.time", lambda: true() + jump)
        assert await broker.publish(PublishRequest("a", b"again", key="once", retention=day)) == first
        await broker.publish(PublishRequest("a", b"after", retention=day))
        page = await broker.history("a", retention=day)
        assert [publication.data for publication in page.publications] == [b"before", b"after"]
        assert page.publications[1].time == pytest.approx(true() + jump, abs=5)

    run(main())


def test_what_is_older_than_the_history_is_gone() -> None:
    async def main() -> None:
        moment = 100.0
        broker = MemoryBroker(lambda: moment)
        await broker.start(lambda _: None)
        for _ in range(2):
            await broker.publish(PublishRequest("a", b"x", retention=Retention(100, 60)))
            moment += 40
        page = await broker.history("a", retention=Retention(100, 60))
        assert [publication.offset for publication in page.publications] == [2]

    run(main())
