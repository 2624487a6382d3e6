"""How many requests of one network are served at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.counting import reached
from tidewire.links.request_limit import RequestLimit


class Serving:
    """An application whose requests last until they are released, behind a limit of two."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.limit = RequestLimit(self.serve, 2)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, address: str, kind: str = "http") -> int:
        statuses: list[int] = []

        async def send(event: Any) -> None:
            if "status" in event:
                statuses.append(event["status"])

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        await self.limit({"type": kind, "client": (address, 1)}, receive, send)
        return statuses[0]


@pytest.mark.parametrize(
    ("addresses", "statuses"),
    [
        (["192.0.2.7"] * 4, [200, 200, 503, 503]),
        (["192.0.2.7", "192.0.2.8", "192.0.2.7", "::ffff:192.0.2.7"], [200, 200, 200, 503]),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"], [200, 200, 503, 200]),
        (["127.0.0.1"] * 4, [200] * 4),
    ],
)
def test_a_network_has_so_many_requests_at_once(addresses: list[str], statuses: list[int]) -> None:
    async def main() -> None:
        serving, before = Serving(), reached()["connections_per_address"]
        asking = [asyncio.create_task(serving.ask(address)) for address in addresses]
        await asyncio.sleep(0)
        serving.release.set()
        assert await asyncio.gather(*asking) == statuses
        assert reached()["connections_per_address"] == before + statuses.count(503)
        assert await serving.ask(addresses[0]) == 200, "those that have ended count no more"

    asyncio.run(main())
