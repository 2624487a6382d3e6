"""History is bounded in bytes, by channel and by store; a reader that wanted more is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.support import run
from helpers.counting import reached
from helpers.stores import postgres_database, start_nats, start_redis
from tidewire.backends import open_backend
from tidewire.limits import Limits
from tidewire.messages import Position, PublishRequest
from tidewire.retention import Retention
from tidewire.testing import wait_until

KEPT = Retention(100_000, 86_400.0)
SIZE = 10_000


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql", "nats"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a store of each kind."""
    if request.param == "redis":
        with start_redis(tmp_path / "redis") as redis:
            yield f"redis://127.0.0.1:{redis.port}"
    elif request.param == "nats":
        with start_nats(tmp_path / "nats") as nats:
            yield f"nats://127.0.0.1:{nats.port}"
    elif request.param == "postgresql":
        yield postgres_database()
    else:
        yield "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'chat.db'}"


def test_the_oldest_of_a_channel_go_and_a_reader_is_told(any_url: str) -> None:
    async def scenario() -> None:
        broker, _ = open_backend(any_url, Limits(channel_history_bytes=20 * SIZE))
        await broker.start(lambda _: None)
        first = await broker.publish(PublishRequest("quiet", b"x" * SIZE, retention=KEPT))
        begin = Position(0, (await broker.positions(["a"]))["a"].epoch)
        for _ in range(100):
            top = await broker.publish(PublishRequest("a", b"x" * SIZE, retention=KEPT))
        offsets: list[int] = []

        async def is_bounded() -> bool:
            nonlocal page
            page = await broker.history("a", since=begin, retention=KEPT)
            offsets[:] = [publication.offset for publication in page.publications]
            # NATS does not tell a channel's size: it is bounded by marks, which come later where publishing is fast
            return len(offsets) <= (45 if any_url.startswith("nats") else 26)

        page = await broker.history("a", since=begin, retention=KEPT)
        await wait_until(is_bounded, 10)
        assert offsets[-1] == top.offset
        assert len(offsets) >= 15
        assert offsets == [publication.offset for publication in page.publications]
        assert not page.complete
        assert page.top == top
        late = await broker.history("a", since=Position(offsets[0], begin.epoch), retention=KEPT)
        assert (late.complete, len(late.publications)) == (True, len(offsets) - 1)
        assert (await broker.history("quiet", since=Position(0, first.epoch), retention=KEPT)).complete
        assert reached()["channel_history_bytes"]
        await broker.aclose()

    run(scenario(), 20)


def test_the_oldest_of_all_channels_go_when_the_store_is_full(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.backends.shared.growth.LOOK_SECONDS", 0.5)  # of those that look now and then

    async def scenario() -> None:
        broker, _ = open_backend(any_url, Limits(store_history_bytes=100 * SIZE))
        await broker.start(lambda _: None)
        position = await broker.publish(PublishRequest("first", os.urandom(SIZE), retention=KEPT))
        number, least = 0, 100

        async def is_told() -> bool:
            nonlocal number, least
            for _ in range(20):
                number += 1
                await broker.publish(PublishRequest(f"room {number % 50}", os.urandom(SIZE), retention=KEPT))
            page = await broker.history("first", since=Position(0, position.epoch), retention=KEPT)
            assert page.top == position
            assert page.complete == bool(page.publications)
            if not page.publications:
                rooms = [await broker.history(f"room {room}", retention=KEPT) for room in range(50)]
                least = min(least, sum(len(page.publications) for page in rooms))
            return number > 300 and not page.publications

        await wait_until(is_told, 30)
        # NATS removes a share of the sequences, of which some are marks of earlier removals
        assert least >= (40 if any_url.startswith("nats") else 60), "no more go than need be"
        await wait_until(lambda: bool(reached()["store_history_bytes"]), 10)
        await broker.aclose()

    run(scenario(), 60)
