"""Limits by network and by user hold over all workers of a machine exactly, and a killed worker's are free again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from contract.serving import Server

MOST = 8
APP = Path(__file__).with_name("shared_limits_app.py")


@contextlib.contextmanager
def serving(folder: Path, store: str, **limits: float) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    own = {"connections_per_address": MOST} if "connections_per_address" in limits else {}
    variables = {"STORE": store, **{f"MAX_{name.upper()}": str(value) for name, value in limits.items()}}
    server = Server(folder, app=APP, workers=2, limits=own, environment=variables)
    with server.running():
        yield server


async def open_from(server: Server, address: str, user: str = "") -> ClientConnection | None:
    """Connect as from an address; return None if there are too many."""
    url = f"ws://127.0.0.1:{server.port}/?user={user}"
    try:
        return await connect(url, proxy=None, compression=None, additional_headers={"X-Forwarded-For": address})
    except InvalidStatus as refused:
        response = refused.response
    assert (response.status_code, b"connections_per_address" in (response.body or b"")) == (503, True)
    return None


async def fill_both(
    server: Server, address: str, user: str = "", *, most: int = MOST
) -> dict[int, list[ClientConnection]]:
    """Return connections by worker, as many of each of the two."""
    found: dict[int, list[ClientConnection]] = {}
    async with asyncio.timeout(30):
        while sum(map(len, found.values())) < most:
            client = await open_from(server, address, user)
            assert client is not None
            of_worker = found.setdefault(int(await client.recv()), [])
            if len(of_worker) < most / 2:
                of_worker.append(client)
            else:
                await client.close()
                await asyncio.sleep(0.02)
    return found


async def crowd(server: Server, addresses: list[str]) -> list[ClientConnection]:
    """Return the connections that were let in."""
    return [one for one in await asyncio.gather(*[open_from(server, one) for one in addresses]) if one is not None]


@pytest.mark.parametrize("network", ["192.0.2.7", "2001:db8:0:1::"])
def test_a_network_has_so_many_connections_on_all_workers(tmp_path: Path, network: str) -> None:
    addresses = [f"{network}{number:x}" if network.endswith("::") else network for number in range(1, 5 * MOST)]

    async def scenario(server: Server) -> None:
        inside = await fill_both(server, addresses[0])
        assert await crowd(server, addresses) == []
        stranger = await open_from(server, "198.51.100.1")
        assert stranger is not None
        doomed, safe = inside
        os.kill(doomed, signal.SIGKILL)
        for client in inside[doomed]:
            await client.wait_closed()
        again = await crowd_of(server, addresses, MOST // 2)
        assert await crowd(server, addresses) == []
        for client in [*inside[safe], *again]:
            await client.close()
        again = await crowd_of(server, addresses, MOST)
        for client in [*again, stranger]:
            await client.close()

    with serving(tmp_path / "app", "sqlite:///app.db", connections_per_address=MOST) as server:
        asyncio.run(scenario(server))


async def crowd_of(server: Server, addresses: list[str], most: int) -> list[ClientConnection]:
    """Return so many connections of many that come at once: not more, and not less when those before are gone."""
    found: list[ClientConnection] = []
    async with asyncio.timeout(30):
        while len(found) < most:
            with contextlib.suppress(OSError):
                found += await crowd(server, addresses)
    assert len(found) == most
    return found


def test_a_network_has_so_many_requests_on_all_workers(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=30) as client:

            async def ask(address: str) -> httpx.Response:
                return await client.get(f"http://127.0.0.1:{server.port}/slow", headers={"X-Forwarded-For": address})

            for _ in range(2):  # those of the first time count no more
                answers = await asyncio.gather(*[ask("192.0.2.7") for _ in range(4 * MOST)], ask("198.51.100.1"))
                assert Counter(answer.status_code for answer in answers) == {200: MOST + 1, 503: 3 * MOST}

    with serving(tmp_path / "app", "sqlite:///app.db", connections_per_address=MOST) as server:
        asyncio.run(scenario(server))


def test_a_user_has_one_rate_on_all_workers(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        inside = await fill_both(server, "192.0.2.7", "ann", most=12)
        ours = [client for of_worker in inside.values() for client in of_worker]
        for _ in range(10):
            await asyncio.gather(*[client.send("x") for client in ours])
        answers = [str(await client.recv()) for client in ours for _ in range(10)]
        assert sum(answer.startswith("handled") for answer in answers) == 20
        assert sum("rate_per_user" in answer for answer in answers) == 100
        neighbour = await open_from(server, "192.0.2.7", "bob")
        assert neighbour is not None
        await neighbour.recv()
        await neighbour.send("x")
        assert str(await neighbour.recv()).startswith("handled")
        for client in [*ours, neighbour]:
            await client.close()

    limits = {"rate": 0.001, "burst": 10, "rate_per_user": 0.002}
    with serving(tmp_path / "app", "sqlite:///app.db", **limits) as server:
        asyncio.run(scenario(server))


async def let_in(server: Server, user: str) -> tuple[int, ClientConnection] | None:
    """Connect as a user; return the worker and the connection, None if there are too many."""
    try:
        client = await connect(f"ws://127.0.0.1:{server.port}/?user={user}", proxy=None, compression=None)
        return int(await client.recv()), client
    except (InvalidStatus, ConnectionClosed, OSError):
        return None


@pytest.mark.slow
def test_the_share_of_a_user_on_a_killed_worker_is_free_within_a_lease(tmp_path: Path) -> None:
    """Not more than the share comes in meanwhile, however many try at once."""

    async def scenario(server: Server) -> None:
        inside: list[tuple[int, ClientConnection]] = []

        async def try_at_once() -> None:
            inside.extend(filter(None, await asyncio.gather(*[let_in(server, "ann") for _ in range(3 * MOST)])))
            assert len(inside) <= MOST

        async with asyncio.timeout(30):
            while len(inside) < MOST:
                await try_at_once()
        doomed = inside[0][0]
        os.kill(doomed, signal.SIGKILL)
        inside[:] = [one for one in inside if one[0] != doomed]
        async with asyncio.timeout(15):
            while len(inside) < MOST:
                await try_at_once()
        await try_at_once()
        for _, client in inside:
            await client.close()

    with serving(tmp_path / "app", "sqlite:///app.db", connections_per_user=MOST) as server:
        asyncio.run(scenario(server))
