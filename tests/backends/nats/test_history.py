"""History with holes: one stream counts for all channels; what is removed is told, and what is trimmed too."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.support import run
from helpers.stores import Daemon, start_nats
from tidewire.backends.nats import NatsBroker, reading
from tidewire.errors import StoreUnavailable
from tidewire.messages import HistoryPage, Position, Publication, PublishRequest
from tidewire.retention import Retention
from tidewire.testing import wait_until

from .helpers import broker_on

ALL = Retention(1_000_000, 1e9)


async def opened(server: Daemon, **limits: Any) -> NatsBroker:
    broker = broker_on(server, **limits)
    await broker.start(lambda _: None)
    return broker


def offsets(page: HistoryPage) -> list[int]:
    return [publication.offset for publication in page.publications]


async def publish(broker: NatsBroker, channel: str, count: int, retention: Retention = ALL) -> list[int]:
    requests = [PublishRequest(channel, b"%d" % number, retention=retention) for number in range(count)]
    return [position.offset for position in await asyncio.gather(*map(broker.publish, requests))]


def test_pages_of_two_channels_that_grow_together(tmp_path: Path) -> None:
    """Every page against what a list says, with the offsets of each channel having holes."""

    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        kept: dict[str, list[int]] = {"a": [], "b": []}
        chosen = random.Random(7)
        for _ in range(120):
            channel = chosen.choice("aab")
            kept[channel] += await publish(broker, channel, 1)
        top = Position(kept["a"][-1], broker._epoch)
        linked = dict(zip(kept["a"], [0, *kept["a"]], strict=False))
        for _ in range(60):
            limit = chosen.choice([None, 1, 3, 500])
            since = chosen.choice([None, *kept["a"]])
            size = chosen.choice([None, 0, 1, 5, 1_000])
            position = None if since is None else Position(since, top.epoch)
            retention = None if size is None else Retention(size, 1e9)
            shown = kept["a"] if size is None else kept["a"][len(kept["a"]) - min(size, len(kept["a"])) :]
            after = [offset for offset in shown if since is None or offset > since]
            page = await broker.history("a", since=position, limit=limit, retention=retention)
            assert offsets(page) == after[:limit]
            missed = [offset for offset in kept["a"] if since is not None and offset > since]
            assert page.complete == (since is None or missed == after or (limit is not None and missed == after))
            assert page.top == top
            assert all(one.previous == linked[one.offset] for one in page.publications)
            before = [offset for offset in reversed(shown) if since is None or offset < since]
            back = await broker.history("a", since=position, limit=limit, reverse=True, retention=retention)
            assert offsets(back) == before[:limit]
            assert all(one.previous == linked[one.offset] for one in back.publications)
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_the_newest_of_very_many_are_found_without_reading_all(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        rare = await publish(broker, "rare", 30)
        busy = await publish(broker, "busy", 2_000)
        rare += await publish(broker, "rare", 5)
        newest = await broker.history("busy", limit=10, reverse=True, retention=Retention(100, 1e9))
        assert offsets(newest) == busy[:-11:-1]
        assert offsets(await broker.history("busy", retention=Retention(100, 1e9))) == busy[-100:]
        assert offsets(await broker.history("rare", limit=20, reverse=True)) == rare[:-21:-1]
        since = Position(busy[-800], newest.top.epoch)
        assert offsets(await broker.history("busy", since=since)) == busy[-799:]
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Count the messages that are read from now on."""
    read, count = reading._read, itertools.count()

    def counted(msg: Any) -> Any:
        next(count)
        return read(msg)

    monkeypatch.setattr(reading, "_read", counted)
    return count


def test_a_page_of_a_long_history_costs_no_more_than_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is far behind reads page after page: each message once, whatever comes after the page."""

    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        kept = await publish(broker, "a", 1_000)
        count = count_reads(monkeypatch)
        found: list[int] = []
        page = await broker.history("a", limit=50, retention=ALL)
        while page.publications:
            found += offsets(page)
            page = await broker.history("a", since=page.publications[-1].position, limit=50, retention=ALL)
        assert found == kept
        assert next(count) < 1_500
        await asyncio.sleep(2.1)
        newest = await publish(broker, "a", 60)
        page = await broker.history("a", limit=50, retention=Retention(1_000_000, 2.0))
        assert offsets(page) == newest[:50]  # behind a thousand that are too old
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_who_is_too_far_behind_is_read_no_more_than_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the stream is busy, a server takes up to a millisecond for each old message, and its readers gave up."""

    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        kept = await publish(broker, "a", 750)
        count = count_reads(monkeypatch)
        since = Position(kept[10], (await broker.positions(["a"]))["a"].epoch)
        page = await broker.history("a", since=since, limit=50, retention=Retention(100, 1e9))
        assert (offsets(page), page.complete) == (kept[-100:-50], False)
        assert next(count) < 300
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_read_that_is_not_answered_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def say_nothing(*_: Any) -> Any:
        raise TimeoutError

    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        await publish(broker, "a", 2)
        monkeypatch.setattr(reading._Reader, "_take_batch", say_nothing)
        with pytest.raises(StoreUnavailable, match=r"no answer within 2 s$"):
            await broker.history("a")
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server))


def test_large_messages_are_read_one_by_one(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        for size in (10, 900_000, 700_000, 10):
            await broker.publish(PublishRequest("a", b"x" * size, retention=ALL))
        assert [len(p.data) for p in (await broker.history("a")).publications] == [10, 900_000, 700_000, 10]
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server))


def test_what_is_trimmed_makes_a_recovery_incomplete_and_the_position_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidewire.backends.nats.housekeeping.DELIVERY_SECONDS", 0.3)
    monkeypatch.setattr("tidewire.backends.nats.housekeeping._SLACK", 0)

    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        stream, trimmer = broker._stream, broker._trimmer
        kept = await publish(broker, "a", 50, Retention(10, 1e9))
        gone = await publish(broker, "b", 20, Retention(100, 0.4))
        none = await publish(broker, "c", 20, Retention(0, 1e9))
        await trimmer.trim(stream)
        assert offsets(await broker.history("a")) == kept, "it is younger than delivery needs"

        async def is_trimmed() -> bool:
            await trimmer.trim(stream)
            return all([not offsets(await broker.history(channel)) for channel in "bc"])

        await wait_until(is_trimmed, 10)
        page = await broker.history("a")
        assert offsets(page) == kept[-10:]
        epoch = page.top.epoch
        tops = await broker.positions(["a", "b", "c"])
        assert [tops[name].offset for name in "abc"] == [kept[-1], gone[-1], none[-1]]
        assert not (await broker.history("a", since=Position(kept[-12], epoch))).complete
        assert (await broker.history("a", since=Position(kept[-10], epoch))).complete
        assert not (await broker.history("a", since=Position(0, epoch))).complete
        assert (await broker.history("b", since=tops["b"])).complete
        assert not (await broker.history("b", since=Position(0, epoch))).complete
        (after,) = await publish(broker, "b", 1)
        found = await broker.history("b", since=tops["b"])
        assert (offsets(found), found.complete, found.publications[0].previous) == ([after], True, gone[-1])
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_the_nodes_take_turns_in_trimming(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        brokers = [await opened(server) for _ in range(2)]
        turns = [await broker._trimmer._is_mine(broker._stream) for broker in brokers]
        assert turns == [True, False]
        for broker in brokers:
            await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server))


def test_a_removed_history_costs_who_is_connected_nothing(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        delivered: list[Publication] = []
        broker = broker_on(server)
        await broker.start(delivered.extend)
        await broker.subscribe("a")
        first = await publish(broker, "a", 3)
        await broker.remove_history("a")
        await broker.remove_history("a")
        second = await publish(broker, "a", 2)
        await wait_until(lambda: len(delivered) == 5)
        assert [one.offset for one in delivered] == [*first, *second]
        assert [one.previous for one in delivered] == [0, *first, second[0]]
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server))


def test_what_another_program_publishes_is_json_of_the_channel(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        delivered: list[Publication] = []
        broker = broker_on(server)
        await broker.start(delivered.extend)
        await broker.subscribe("a")
        await broker._stream.session.request(broker._stream.stored("a"), b'{"from":"outside"}')
        await wait_until(lambda: len(delivered) == 1)
        (stored,) = (await broker.history("a")).publications
        assert delivered[0].data == stored.data == b'{"from":"outside"}'
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server))


def test_what_an_operator_is_told(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        broker = await opened(server)
        assert any("nats-server" in line for line in await broker.describe())
        advice = await broker.advise()
        assert any("power loss" in line for line in advice)
        session, stream = broker._stream.session, broker._stream.name
        config = json.loads((await session.request(f"$JS.API.STREAM.INFO.{stream}", b"")).data)["config"]
        config |= {"no_ack": True, "duplicate_window": 100_000_000}
        await session.request(f"$JS.API.STREAM.UPDATE.{stream}", json.dumps(config).encode())
        told = [line for line in await broker.advise() if line not in advice]
        assert [("no_ack" in line, "keys for 0.1 s" in line) for line in told] == [(True, False), (False, True)]
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server))
