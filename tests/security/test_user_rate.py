"""A user has one rate over all connections, beside that of each connection (over workers: test_shared_limits)."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import WebSocket

from helpers.hubs import receive, run, serving
from tidewire import ConfigurationError, Hub, Limits


@pytest.mark.parametrize(
    ("limits", "most"),
    [(Limits(rate=0.001, burst=10), 50), (Limits(rate=0.001, burst=10, rate_per_user=0.002), 20)],
)
def test_many_connections_of_one_user_share_a_rate_and_a_neighbour_keeps_its_own(limits: Limits, most: int) -> None:
    async def main() -> None:
        hub = Hub(limits=limits)
        handled = {"ann": 0, "bob": 0}

        async def endpoint(websocket: WebSocket, user: str, late: bool = False) -> None:
            async with hub.connect(websocket, user="" if late else user) as connection:
                if late:
                    await connection.identify(user)
                await connection.send_text("in")
                async for _ in connection.iter_text():
                    handled[user] += 1
                    await connection.send_text("handled")

        async with serving(hub, endpoint) as running:
            clients = [await running.open(f"/?user=ann&late={number % 2 == 0}") for number in range(12)]
            try:
                for client in clients:
                    assert await receive(client) == "in"
                for _ in range(10):
                    await asyncio.gather(*[client.send("x") for client in clients])
                answers = [await receive(client) for client in clients for _ in range(10)]
                assert answers.count("handled") == handled["ann"] == most
                assert sum("rate_per_user" in answer for answer in answers) == 120 - most
                assert hub.statistics().limits_reached["rate_per_user"] == 120 - most
                async with running.open("/?user=bob") as bob:
                    assert await receive(bob) == "in"
                    await bob.send("x")
                    assert await receive(bob) == "handled"
            finally:
                for client in clients:
                    await client.close()

    run(main())


def test_a_rate_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="rate_per_user"):
        Limits(rate_per_user=-1.0)
