"""Names and values that a store cannot keep: refused before any store sees them, and nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.stores import postgres_database, start_nats, start_redis
from tidewire import Hub
from tidewire.backends import open_backend
from tidewire.errors import BadRequest
from tidewire.limits import Limits
from tidewire.messages import Announcement, Format, Member, Position, PublishRequest

BAD: list[Any] = [uuid.UUID(int=1), 7, None, b"ann", "a\0b", "\ud800", "x" * 3_500, "é" * 700]


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    match request.param:
        case "memory":
            yield "memory://"
        case "sqlite":
            yield f"sqlite:///{tmp_path / 'chat.db'}"
        case "postgres":
            yield postgres_database()
        case "redis":
            with start_redis(tmp_path) as server:
                yield f"redis://127.0.0.1:{server.port}"
        case "nats":
            with start_nats(tmp_path) as server:
                yield f"nats://127.0.0.1:{server.port}"


async def answer(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await call()
    except BadRequest as error:
        return error


def test_a_bad_name_or_value_is_refused_and_harms_nobody_else(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        broker, presence = open_backend(url, Limits())
        await broker.start(lambda _: None)
        await presence.start("node")
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        for bad in BAD:
            calls += [
                lambda bad=bad: broker.publish(PublishRequest(bad, b"x")),
                lambda bad=bad: broker.subscribe(bad),
                lambda bad=bad: broker.history(bad),
                lambda bad=bad: broker.remove_history(bad),
                lambda bad=bad: broker.positions(["good", bad]),
                lambda bad=bad: presence.join(bad, Member("1", "ann")),
                lambda bad=bad: presence.join("a", Member("1", bad)),
                lambda bad=bad: presence.join("a", Member(bad, "ann")),
                lambda bad=bad: presence.leave("a", bad),
                lambda bad=bad: presence.members(bad),
            ]
        for wrong in ("text", 7, None, uuid.UUID(int=1)):
            calls += [
                lambda wrong=wrong: broker.publish(PublishRequest("a", wrong)),
                lambda wrong=wrong: presence.join("a", Member("1", "ann", wrong)),
                lambda wrong=wrong: presence.join("a", Member("1", "ann"), Announcement(wrong, Format.TEXT)),
            ]
        for key in (7, "\0", "\ud800", uuid.UUID(int=1)):
            calls.append(lambda key=key: broker.publish(PublishRequest("a", b"x", key=key)))
        for age in (-1.0, float("nan"), float("inf")):
            calls.append(lambda age=age: broker.publish(PublishRequest("a", b"x", key="k", key_age=age)))
        for epoch in (7, "\ud800", "\0"):
            calls.append(lambda epoch=epoch: broker.history("a", since=Position(1, epoch)))
        mixed = [call for bad in calls for call in (bad, lambda: broker.publish(PublishRequest("good", b"x")))]
        mixed += [lambda n=n: presence.join("good", Member(str(n), f"user {n}")) for n in range(20)]  # type: ignore[misc]
        answers = await asyncio.gather(*(answer(call) for call in mixed))
        good = answers[1 : 2 * len(calls) : 2]
        assert all(isinstance(one, BadRequest) for one in answers[: 2 * len(calls) : 2])
        assert [position.offset for position in good] == list(range(1, len(calls) + 1))
        assert all(joined.first for joined in answers[2 * len(calls) :])
        # nobody is given another one's answer
        await broker.publish(PublishRequest("other", b"secret"))
        assert (await broker.history("a")).publications == ()
        assert [member.user for member in await presence.members("good")] == [f"user {n}" for n in range(20)]
        assert await presence.count("a") == 0
        await presence.aclose()
        await broker.aclose()

    caplog.set_level(logging.WARNING, "tidewire")
    asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or "away" in record.message]


def test_a_hub_refuses_what_its_store_cannot_keep_and_is_not_degraded(url: str) -> None:
    async def scenario() -> None:
        async with Hub(url) as hub:
            for bad in BAD:
                for call in (hub.users, hub.presence, hub.history, hub.is_online, hub.inbox):
                    with pytest.raises(BadRequest):
                        await call(bad)  # type: ignore[operator]
                for publish in (hub.publish, hub.send_to_user):
                    with pytest.raises(BadRequest):
                        await publish(bad, "x")
            with pytest.raises(BadRequest):
                await hub.publish("a", "x", key="\0")
            await hub.publish("room", "kept")
            assert [p.data for p in (await hub.history("room")).publications] == [b"kept"]
            assert await hub.users("room") == []
            assert not hub.degraded

    asyncio.run(scenario())
