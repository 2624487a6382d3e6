"""History is bounded in bytes, by channel and by store; a reader that wanted more is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.support import run
from helpers.counting import reached
from tidewire.backends import open_backend
from tidewire.messages import Position, PublishRequest
from tidewire.options import Limits
from tidewire.retention import Retention
from tidewire.testing import wait_until

KEPT = Retention(100_000, 86_400.0)
SIZE = 10_000


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'chat.db'}"


def test_the_oldest_of_a_channel_go_and_a_reader_is_told(url: str) -> None:
    async def scenario() -> None:
        broker, _ = open_backend(url, Limits(channel_history_bytes=20 * SIZE))
        await broker.start(lambda _: None)
        first = await broker.publish(PublishRequest("quiet", b"x" * SIZE, retention=KEPT))
        begin = Position(0, (await broker.positions(["a"]))["a"].epoch)
        for _ in range(100):
            top = await broker.publish(PublishRequest("a", b"x" * SIZE, retention=KEPT))
        page = await broker.history("a", since=begin, retention=KEPT)
        offsets = [publication.offset for publication in page.publications]
        assert offsets == list(range(offsets[0], 101))
        assert 15 <= len(offsets) <= 26
        assert not page.complete
        assert page.top == top
        late = await broker.history("a", since=Position(offsets[0] - 1, begin.epoch), retention=KEPT)
        assert (late.complete, len(late.publications)) == (True, len(offsets))
        assert (await broker.history("quiet", since=Position(0, first.epoch), retention=KEPT)).complete
        assert reached()["channel_history_bytes"]
        await broker.aclose()

    run(scenario(), 20)


def test_the_oldest_of_all_channels_go_when_the_store_is_full(url: str) -> None:
    async def scenario() -> None:
        broker, _ = open_backend(url, Limits(store_history_bytes=100 * SIZE))
        await broker.start(lambda _: None)
        position = await broker.publish(PublishRequest("first", b"x" * SIZE, retention=KEPT))
        number = 0

        async def is_told() -> bool:
            nonlocal number
            for _ in range(20):
                number += 1
                await broker.publish(PublishRequest(f"room {number % 50}", b"x" * SIZE, retention=KEPT))
            page = await broker.history("first", since=Position(0, position.epoch), retention=KEPT)
            assert page.top == position
            assert page.complete == bool(page.publications)
            return number > 300 and not page.publications

        await wait_until(is_told, 10)
        newest = await broker.history(f"room {number % 50}", limit=1, reverse=True, retention=KEPT)
        assert len(newest.publications) == 1
        assert reached()["store_history_bytes"]
        await broker.aclose()

    run(scenario(), 20)
