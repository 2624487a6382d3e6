"""What lies between a node and Redis: TLS, and a network that swallows everything."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.serving import free_port
from engine.support import run
from helpers.stores import start_redis
from requirements import require
from tidewire.errors import ConfigurationError, NotPublished, PublishUnconfirmed, StoreUnavailable

from .helpers import Ledger, check, connect, received, redis_node, wait_until


class Proxy:
    """Passes bytes between a node and Redis, unless it swallows them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def swallow(self) -> None:
        """Let nothing through, and end no connection."""
        self._passing.clear()

    def heal(self) -> None:
        """Let new connections through again; one that lost something stays silent, as bytes never come out of order."""
        self._passing.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._target)
        is_lost = asyncio.Event()
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._pass(source, sink, is_lost))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_lost: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if not self._passing.is_set():
                    is_lost.set()
                if not is_lost.is_set():
                    sink.write(data)
                    await sink.drain()
        sink.close()


def test_a_node_that_is_split_from_redis_comes_back_by_itself_and_others_go_on(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        async with (
            Proxy(port).running() as proxy,
            redis_node(f"redis://127.0.0.1:{port}") as whole,
            redis_node(f"redis://127.0.0.1:{proxy.port}", publish_seconds=0.5) as split,
        ):
            clients = [await connect(node, channel="a") for node in (whole, split)]
            ledgers = Ledger(whole), Ledger(split)
            async with ledgers[0].publishing(1, 0.02), ledgers[1].publishing(2):
                await wait_until(lambda: len(ledgers[1].kept) > 50)
                proxy.swallow()
                await ledgers[1].fails()
                await ledgers[0].succeeds(50)
                delivery = split.broker._delivery  # type: ignore[attr-defined]
                await wait_until(lambda: not delivery.connection.is_open, what="a silent server is noticed")
                proxy.heal()
                await ledgers[1].succeeds(50)
            assert not ledgers[0].failures
            assert {type(error) for error, _ in ledgers[1].failures} == {NotPublished, PublishUnconfirmed}
            await ledgers[0].publish()
            for client in clients:
                await received(client, ledgers[0])
                check(client, *ledgers)

    with start_redis(tmp_path) as server:
        run(scenario(server.port), 30)


def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    require(openssl, "apt-get install openssl")
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    command = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)

    async def scenario(port: int) -> None:
        async with redis_node(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            await received(client, ledger)
            check(client, ledger)
        for url in (f"rediss://localhost:{port}", f"redis://localhost:{port}"):
            with pytest.raises((StoreUnavailable, ConfigurationError)):
                async with redis_node(url):
                    pass

    with ExitStack() as stack:
        port = free_port()
        tls = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
        stack.enter_context(start_redis(tmp_path / "redis", *tls, "--tls-auth-clients", "no"))
        run(scenario(port))
