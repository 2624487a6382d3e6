"""What the broker on Redis does beyond the contract: trimming, expiry, rights, neighbours, bounds."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from engine.support import run
from helpers.counting import reached
from helpers.stores import start_redis
from tidewire.backends import open_backend
from tidewire.backends.shared import waiting
from tidewire.errors import ConfigurationError, NotPublished, PublishUnconfirmed
from tidewire.limits import Limits
from tidewire.messages import Position, PublishRequest
from tidewire.retention import Retention
from tidewire.testing.contract_store import Node

from .helpers import ask, redis_node, wait_until


async def open_broker(url: str, **limits: Any) -> Node:
    node = Node(open_backend(url, Limits(**limits))[0])
    await node.broker.start(node.delivered.extend)
    return node


def integers(reply: bytes) -> list[int]:
    return [int(part[1:]) for part in reply.split(b"\r\n") if part.startswith(b":")]


def stored(port: int, channel: str) -> int:
    return integers(ask(port, "XLEN", f"tidewire:{{{channel}}}:stream"))[0]


def age_entries(port: int, channel: str, count: int, seconds: float) -> None:
    """Let a channel have so many publications of so many seconds ago."""
    body = "\x00\x00\x00\x00\x00old"
    for offset in range(1, count + 1):
        at = str(int((time.time() - seconds) * 1e3))
        ask(port, "XADD", f"tidewire:{{{channel}}}:stream", f"{offset}-0", "t", at, "b", body)
    ask(port, "HSET", f"tidewire:{{{channel}}}:meta", "top", str(count))


@pytest.mark.parametrize(
    ("seconds", "retention", "left"),
    [
        pytest.param(50.0, Retention(10, 1.0), 451, id="nothing younger than 60 s"),
        pytest.param(70.0, Retention(10, 1e6), 51, id="beyond the size"),
        pytest.param(70.0, Retention(1000, 65.0), 51, id="beyond the age"),
        pytest.param(70.0, Retention(1000, 1e6), 451, id="still shown"),
    ],
)
def test_trimming_takes_old_ones_that_nobody_is_shown(
    tmp_path: Path, seconds: float, retention: Retention, left: int
) -> None:
    async def scenario(port: int) -> None:
        node = await open_broker(f"redis://127.0.0.1:{port}")
        await node.broker.subscribe("a")
        age_entries(port, "a", 450, seconds)
        assert await node.publish("a", retention=retention) == 451
        for _ in range(4):  # a few steps a call
            await node.publish("b", retention=retention)
            if stored(port, "a") > left:
                await node.publish("a", retention=retention)
        top = (await node.broker.history("a", limit=0)).top.offset
        assert stored(port, "a") == left + top - 451
        page = await node.broker.history("a", retention=retention)
        assert page.publications[-1].offset == top
        await node.broker.aclose()

    with start_redis(tmp_path) as server:
        run(scenario(server.port))


def test_everything_of_a_channel_ends_by_itself_and_one_that_was_forgotten_begins_a_new_epoch(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        node = await open_broker(f"redis://127.0.0.1:{port}")
        first = await node.broker.subscribe("a")
        await node.publish("a", key="k", retention=Retention(5, 10.0))
        ends = {kind: integers(ask(port, "TTL", f"tidewire:{{a}}:{kind}"))[0] for kind in ("meta", "stream", "key:k")}
        assert 86_000 < ends["meta"] <= 172_800
        assert 60 <= ends["stream"] <= 62
        assert 290 < ends["key:k"] <= 300
        ask(port, "DEL", "tidewire:{a}:meta")
        new = await node.broker.publish(PublishRequest("a", b"again"))
        assert (new.offset, new.epoch == first.epoch) == (1, False)
        page = await node.broker.history("a", since=Position(1, first.epoch))
        assert (page.publications, page.complete) == ((), False)
        await node.broker.aclose()

    with start_redis(tmp_path) as server:
        run(scenario(server.port))


def test_neighbours_in_other_databases_and_under_other_prefixes_hear_nothing(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        urls = ("", "/1", "?prefix=other")
        nodes = [await open_broker(f"redis://127.0.0.1:{port}{end}") for end in urls]
        for node in nodes:
            await node.broker.subscribe("a")
        for node in nodes:
            assert await node.publish("a", key="k") == 1
        for node in nodes:
            await wait_until(lambda node=node: node.offsets("a") == [1])  # type: ignore[misc]
            await node.broker.aclose()
            assert node.offsets("a") == [1]

    with start_redis(tmp_path) as server:
        run(scenario(server.port))


RIGHTS = "on >s3cret ~tidewire:* &tidewire:* +@all -@dangerous +info +role"


def test_a_user_with_few_rights_is_enough_and_a_wrong_password_is_told_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(port: int) -> None:
        ask(port, "ACL", "SETUSER", "app", *RIGHTS.split())
        ask(port, "ACL", "SETUSER", "default", "off")
        async with redis_node(f"redis://app:s3cret@127.0.0.1:{port}") as node:
            await node.publish("a", b"x", key="k")
            assert await node.broker.describe()
            assert "not known" in (await node.broker.describe())[0]
        for wrong in ("redis://app:wr0ng@", "redis://"):
            with pytest.raises(ConfigurationError, match="refuses the login") as caught:
                await open_broker(f"{wrong}127.0.0.1:{port}")
            assert "wr0ng" not in str(caught.value)

    with start_redis(tmp_path) as server:
        run(scenario(server.port))
    assert "s3cret" not in caplog.text


def test_a_server_that_keeps_nothing_on_disk_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(port: int) -> tuple[str, ...]:
        node = await open_broker(f"redis://127.0.0.1:{port}")
        advice = await node.broker.advise()
        await node.broker.aclose()
        return advice

    caplog.set_level(logging.WARNING, "tidewire")
    with start_redis(tmp_path) as server:
        (warning,) = asyncio.run(scenario(server.port))
        assert "appendonly is no" in warning
        assert warning in caplog.text
        caplog.clear()
        ask(server.port, "CONFIG", "SET", "appendonly", "yes")
        assert asyncio.run(scenario(server.port)) == ()
        assert not caplog.text
        ask(server.port, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")  # what is kept has a time to live
        (warning,) = asyncio.run(scenario(server.port))
        assert "set `maxmemory-policy noeviction`" in warning


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITING_COUNT", 50)

    async def scenario(port: int) -> None:
        node = await open_broker(f"redis://127.0.0.1:{port}")
        answers = await asyncio.gather(*(node.publish("a") for _ in range(80)), return_exceptions=True)
        assert answers[:50] == list(range(1, 51))
        assert all(isinstance(answer, NotPublished) and "the limit is 50" in str(answer) for answer in answers[50:])
        assert await node.publish("a") == 51
        await node.broker.aclose()
        assert reached()["publishes_waiting"] == 30

    with start_redis(tmp_path) as server:
        run(scenario(server.port))


def test_a_channel_that_another_program_replaced_is_mended_beside_others_of_the_same_call(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        node = await open_broker(f"redis://127.0.0.1:{port}")
        ask(port, "SET", "tidewire:{b}:meta", "not a hash")
        names = [name for name in "abc" for _ in range(3)]
        answers = await asyncio.gather(
            *(node.publish(name, key=f"{n % 2}" if n % 3 else "") for n, name in enumerate(names)),
            return_exceptions=True,
        )
        assert answers == [1, 2, 3] * 3
        await node.broker.aclose()

    with start_redis(tmp_path) as server:
        run(scenario(server.port))


def test_a_refusal_that_came_after_something_was_kept_is_no_certain_one(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        ask(port, "ACL", "SETUSER", "mute", *RIGHTS.split(), "-publish")
        node = await open_broker(f"redis://mute:s3cret@127.0.0.1:{port}")
        with pytest.raises(PublishUnconfirmed, match="UNSURE"):
            await node.publish("a")
        assert stored(port, "a") == 1
        await node.broker.aclose()

    with start_redis(tmp_path) as server:
        run(scenario(server.port))


def test_offsets_are_exact_as_far_as_a_browser_counts(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        node = await open_broker(f"redis://127.0.0.1:{port}")
        position = await node.broker.subscribe("a")
        largest = 2**53 - 1
        ask(port, "HSET", "tidewire:{a}:meta", "top", str(largest - 2), "lowest", str(largest - 1))
        assert [await node.publish("a", key=str(n)) for n in (1, 2, 1)] == [largest - 1, largest, largest - 1]
        await wait_until(lambda: node.offsets("a") == [largest - 1, largest])
        page = await node.broker.history("a", since=Position(largest - 1, position.epoch))
        assert ([p.offset for p in page.publications], page.complete) == ([largest], True)
        assert (await node.broker.positions(["a"]))["a"].offset == largest
        await node.broker.aclose()

    with start_redis(tmp_path) as server:
        run(scenario(server.port))
