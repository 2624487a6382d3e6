"""Limits by network see the client behind its proxies, and no address that a client has made up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidStatus

from contract.serving import Server, free_port, until
from requirements import require
from tidewire.support.networks import network_of, with_mapped

MOST = 3
APP = Path(__file__).with_name("shared_limits_app.py")


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    variables = {"STORE": "memory://", "MAX_CONNECTIONS_PER_ADDRESS": str(MOST)}
    server = Server(folder, *arguments, app=APP, environment=variables, limits={"connections_per_address": MOST})
    with server.running():
        yield server


async def let_in(port: int, forwarded: str, stack: contextlib.AsyncExitStack) -> bool:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    try:
        client = await stack.enter_async_context(
            connect(f"ws://127.0.0.1:{port}/", proxy=None, additional_headers=headers)
        )
        await client.recv()
    except InvalidStatus as error:
        refused = error
    else:
        return True
    assert refused.response.status_code == 503
    return False


async def fills_up(port: int, crowd: list[str], others: list[str]) -> None:
    """Fill the limit of one network, and see that no other of the crowd comes in, and that the others do."""
    async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
        assert [await let_in(port, one, stack) for one in crowd] == [True] * MOST + [False] * (len(crowd) - MOST)
        assert [await let_in(port, one, stack) for one in others] == [True] * len(others)


def test_a_client_behind_one_proxy_or_two_is_itself(tmp_path: Path) -> None:
    """What a client claims is left of what its proxy has added, and is not read."""
    with serving(tmp_path, "--trusted-proxies", "127.0.0.1,10.0.0.0/8") as server:
        claims = [f"203.0.113.{number}, 192.0.2.7" for number in range(MOST + 2)]
        by_two = [f"203.0.113.{number}, 192.0.2.8, 10.0.0.5" for number in range(MOST + 2)]
        with_ports = [f"192.0.2.9:{40_000 + number}, 10.0.0.6" for number in range(MOST + 2)]
        asyncio.run(fills_up(server.port, claims, ["203.0.113.1", "192.0.2.8"]))
        asyncio.run(fills_up(server.port, by_two, ["203.0.113.1, 192.0.2.9, 10.0.0.5"]))
        asyncio.run(fills_up(server.port, with_ports, ["192.0.2.10:40000"]))


def test_addresses_of_one_ipv6_network_are_one_however_they_are_written(tmp_path: Path) -> None:
    crowd = [
        "2001:db8:0:1::1",
        "2001:DB8:0:1:0:0:0:2",
        "[2001:db8:0:1::3]:443",
        "2001:db8::1:0:0:0:4",
        "[2001:db8:0:1::5]",
    ]
    with serving(tmp_path) as server:
        asyncio.run(fills_up(server.port, crowd, ["2001:db8:0:2::1"]))
        mapped = [
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "::ffff:c000:207",
            "[::ffff:192.0.2.7]:1",
            "0:0:0:0:0:ffff:192.0.2.7",
        ]
        asyncio.run(fills_up(server.port, mapped, ["::ffff:192.0.2.8"]))


def test_a_proxy_is_trusted_on_a_socket_for_both_families(tmp_path: Path) -> None:
    """Such a socket sees 127.0.0.1 as ::ffff:127.0.0.1."""
    with serving(tmp_path, "--host", "::") as server:
        asyncio.run(fills_up(server.port, ["192.0.2.7"] * (MOST + 2), ["192.0.2.8"]))


def test_who_is_no_proxy_is_not_believed(tmp_path: Path) -> None:
    """All of it counts for the address that the connection has; here that is this machine, which has no limit."""
    with serving(tmp_path, "--trusted-proxies", "10.0.0.1") as server:

        async def scene() -> None:
            async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
                assert [await let_in(server.port, "192.0.2.7", stack) for _ in range(MOST + 2)] == [True] * (MOST + 2)

        asyncio.run(scene())


def test_mapped_forms_are_those_of_addresses_and_networks() -> None:
    found = with_mapped(["127.0.0.1", "::1", "10.0.0.0/8"])
    assert found == [
        "127.0.0.1",
        "::1",
        "10.0.0.0/8",
        "::ffff:127.0.0.1/128",
        "::ffff:10.0.0.0/104",
    ]
    assert with_mapped(["10.0.0.1", "*"]) == ["*"], "uvicorn reads nothing else as everybody"
    assert network_of("::ffff:10.0.0.2") == "10.0.0.2"


# nginx by a Unix socket.


@contextlib.contextmanager
def by_command(folder: Path, *arguments: str) -> Iterator[None]:
    shutil.copy(APP, folder)
    environment = {"PATH": "/usr/bin", "STORE": f"sqlite:///{folder}/app.db", "MAX_CONNECTIONS_PER_ADDRESS": str(MOST)}
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


UVICORN = ("uvicorn", "shared_limits_app:app", "--forwarded-allow-ips", "*", "--ws")


@pytest.mark.parametrize(
    "command",
    [
        (*UVICORN, "tidewire.links.uvicorn:WebSocketProtocol"),
        (*UVICORN, "auto"),
        ("tidewire", "run", "shared_limits_app:app", "--workers", "2"),
    ],
    ids=["uvicorn", "uvicorn alone", "tidewire run"],
)
def test_nginx_by_a_unix_socket(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A Unix socket has no addresses: only who may open it comes, so it is trusted whole."""
    require(shutil.which("nginx"), "apt-get install nginx")
    path, port = tmp_path / "app.sock", free_port()
    site = (
        f"{'user root; ' if os.geteuid() == 0 else ''}\n"
        f"daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; upstream app {{ server unix:{path}; }} set_real_ip_from 127.0.0.1;"
        f" real_ip_header X-Real-Client; server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app;"
        " proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
        " proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; } } }"
    )
    (tmp_path / "nginx.conf").write_text(site)
    with by_command(tmp_path, *command, "--uds", str(path)):
        until(path.exists, 30, what="the server listens")
        nginx = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
        try:
            until(lambda: _answers(f"http://127.0.0.1:{port}/"), what="nginx answers")
            asyncio.run(_through_nginx(port, path))
        finally:
            nginx.terminate()
            nginx.wait(10)


async def _through_nginx(port: int, path: Path) -> None:
    async def from_(address: str) -> ClientConnection | None:
        headers = {"X-Real-Client": address, "X-Forwarded-For": "203.0.113.77"}
        try:
            return await connect(f"ws://127.0.0.1:{port}/", proxy=None, additional_headers=headers)
        except InvalidStatus as error:
            refused = error
        assert refused.response.status_code == 503
        return None

    async with asyncio.timeout(20):
        crowd = [await from_("192.0.2.7") for _ in range(MOST + 2)]
        assert [client is not None for client in crowd] == [True] * MOST + [False] * 2
        other = await from_("192.0.2.8")
        assert other is not None
        # Whoever opens the socket without a proxy is this machine: no limit, and no error for want of an address.
        direct = [await unix_connect(str(path), "ws://localhost/") for _ in range(MOST + 2)]
        for client in [*crowd, other, *direct]:
            if client is not None:
                await client.close()
