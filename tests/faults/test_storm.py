"""Hundreds of clients are sent away at once and come back at once: all recover, and who stayed notices nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.support import run

from .crowd import KEY, Crowd, census
from .serving import serving, store

STAYING = 5


@pytest.mark.parametrize("clients", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_hundreds_return_at_once(tmp_path: Path, clients: int) -> None:
    with store("redis", tmp_path) as used, serving(tmp_path / "run", used.url) as server:

        async def scenario() -> None:
            crowd = Crowd(server, followers=clients, chatters=1)
            async with crowd.following():
                await crowd.presence_is_true(15)
                before, first = await census(server), await crowd.present()
                async with crowd.publishing(1, 0.1):
                    await crowd.succeeds(5)
                    await asyncio.to_thread(send_away)
                    await crowd.all_hear(20)
                await crowd.presence_is_true(20)
                staying = {f"follower {number}" for number in range(STAYING)}
                now = await crowd.present()
                assert {user for client, user in now.items() if client in first} == staying
                await crowd.check()
                await crowd.nothing_is_left(before)

        def send_away() -> None:
            """Disconnect all but a few, with a code that makes them come back."""
            orders = [
                {
                    "disconnect": {
                        "user": f"follower {number}",
                        "disconnect": {"code": 3011, "reason": "force reconnect"},
                    }
                }
                for number in range(STAYING, clients)
            ]
            answer = server.http.post("/api/batch", json={"commands": orders, "parallel": True}, headers=KEY).json()
            assert not [reply for reply in answer["replies"] if "error" in reply], answer

        run(scenario(), 100)
