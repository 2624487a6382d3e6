"""URLs as other tools write them, and poolers that refuse parameters of a session's start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from engine.support import run
from helpers.stores import postgres_database
from tidewire.backends.postgres.address import Server
from tidewire.errors import ConfigurationError

from .helpers import client_of, postgres_node

#: What PgBouncer takes in the start of a session (its documentation, `ignore_startup_parameters`).
POOLER_TAKES = {"user", "database", "client_encoding", "datestyle", "timezone", "standard_conforming_strings",
                "application_name"}  # fmt: skip


@asynccontextmanager
async def pooler(port: int) -> AsyncIterator[int]:
    """Pass sessions on to a server, but refuse parameters of their start as PgBouncer in session mode does."""

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        start = await reader.readexactly(size - 4)
        if size == 8:  # it asks for TLS
            writer.write(b"N")
            size = int.from_bytes(await reader.readexactly(4), "big")
            start = await reader.readexactly(size - 4)
        words = start[4:].rstrip(b"\0").split(b"\0")
        refused = [name.decode() for name in words[::2] if name.decode().lower() not in POOLER_TAKES]
        if refused:
            message = b"SFATAL\0C08P01\0Munsupported startup parameter: " + refused[0].encode() + b"\0\0"
            writer.write(b"E" + (len(message) + 4).to_bytes(4, "big") + message)
            writer.close()
            return
        back, on = await asyncio.open_connection("127.0.0.1", port)
        on.write(size.to_bytes(4, "big") + start)
        await asyncio.gather(pass_on(reader, on), pass_on(back, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_a_pooler_that_refuses_unknown_parameters_serves() -> None:
    async def scenario(url: str) -> None:
        port = urlsplit(url).port
        assert port is not None
        async with pooler(port) as other:
            async with postgres_node(url.replace(f":{port}/", f":{other}/"), publish_seconds=10.0) as node:
                assert (await node.publish("a", b"1")).offset == 1
            await asyncio.sleep(0)

    run(scenario(postgres_database()), 20)


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("postgresql+asyncpg", ""),
        ("postgresql+psycopg", "?connect_timeout=10&application_name=mine"),
        ("postgres", "?sslmode=disable&channel_binding=prefer&keepalives_idle=30&gssencmode=disable"),
        ("postgresql", "?options=-c%20search_path%3Dpublic%20-c%20work_mem%3D8MB&target_session_attrs=any"),
        ("postgresql+asyncpg", "?ssl=disable&prepared_statement_cache_size=0"),
        ("postgresql", "?work_mem=8MB"),
    ],
)
def test_a_url_as_another_tool_writes_it_works(scheme: str, query: str) -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(f"{scheme}{url[url.index(':') :]}{query}") as node, client_of(url) as sql:
            assert (await node.publish("a", b"1")).offset == 1
            names = await sql.fetch(
                "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1",
                sql.get_server_pid(),
            )
            assert {row[0] for row in names if row[0]} == {"mine" if "mine" in query else "tidewire"}

    run(scenario(postgres_database()), 20)


def test_settings_of_a_url_are_those_of_its_sessions() -> None:
    async def scenario(url: str) -> None:
        connection = await Server(f"{url}?options=-c%20work_mem%3D8MB%20--statement-timeout=7&jit=on", 2.0).connect()
        names = ("work_mem", "jit", "enable_seqscan", "statement_timeout", "lock_timeout")
        found = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        assert found == ["8MB", "on", "off", "1700ms", "1500ms"]
        await connection.close()

    run(scenario(postgres_database()), 20)


def test_a_setting_that_cannot_be_is_told() -> None:
    async def scenario(url: str) -> None:
        for query in ("work_memory=1", "work_mem=much"):
            with pytest.raises(ConfigurationError, match="work_mem"):
                async with postgres_node(f"{url}?{query}"):
                    pass

    run(scenario(postgres_database()), 20)
