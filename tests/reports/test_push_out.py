"""What no history shows pushes nothing out of history: twelve notices of typing emptied a history of ten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from engine.support import run
from faults.serving import STORES, Store, store
from tidewire import ChannelOptions, Hub, Publication

KEPT = [f"message {number}" for number in range(10)]


async def take(publications: AsyncIterator[Publication], count: int) -> list[object]:
    return [(await anext(publications)).json() for _ in range(count)]


@pytest.mark.parametrize(
    "name", ["memory", "sqlite", *(pytest.param(n, marks=pytest.mark.slow) for n in STORES if n != "sqlite")]
)
def test_notices_of_typing_leave_the_history_as_it_is(tmp_path: Path, name: str) -> None:
    memory = nullcontext(Store("memory://", None))
    with memory if name == "memory" else store(name, tmp_path) as used:

        async def scenario() -> None:
            rules = {"room": ChannelOptions(history_size=10)}
            async with Hub(used.url, channels=rules) as hub, hub.listen("room") as publications:
                app = FastAPI()
                app.include_router(hub.api_router(key="key"))
                for text in KEPT:
                    await hub.publish("room", text)
                assert await take(publications, 10) == KEPT
                reading = asyncio.create_task(take(publications, 12))
                for number in range(6):
                    await hub.publish("room", {"typing": number}, skip_history=True)
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as api:
                    for number in range(6, 12):
                        notice = {"channel": "room", "data": {"typing": number}, "skip_history": True}
                        answer = await api.post("/api/publish", json=notice, headers={"X-API-Key": "key"})
                        assert answer.json() == {"result": {}}
                page = await hub.history("room", limit=20)
                assert [publication.data.decode() for publication in page.publications] == KEPT
                assert (page.top.offset, page.complete) == (10 if not used.has_holes else page.top.offset, True)
                assert await reading == [{"typing": number} for number in range(12)]

        async def limited() -> None:
            async with asyncio.timeout(30):
                await scenario()

        run(limited(), 60)
