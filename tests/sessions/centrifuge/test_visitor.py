"""The application's own dependency, which says who connects: it is over when the client is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tidewire import Hub
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.rules.base import Caller
from tidewire.sessions.centrifuge.identify import takes_only_the_connection
from tidewire.testing import wait_until

ways = pytest.mark.parametrize("ws", [WebSocketProtocol, "websockets-sansio"], ids=["own", "plain"])


class Database:
    """Counts its sessions."""

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0

    def session(self) -> Iterator[Database]:
        self.open += 1
        self.opened += 1
        try:
            yield self
        finally:
            self.open -= 1


class User:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    @property
    def name(self) -> str:
        """What an object of a database can only be asked while its session is open."""
        assert self._database.open == 1
        return self._name


@asynccontextmanager
async def serving(database: Database, ws: Any) -> AsyncIterator[tuple[Hub, FastAPI, int]]:
    hub = Hub("memory://")

    async def current_user(
        connection: HTTPConnection, tenant: str, who: str = "", session: Database = Depends(database.session)
    ) -> User | None:
        if who == "mallory":
            raise HTTPException(403, "not you")
        assert connection.url.path.startswith(f"/{tenant}/")
        return User(session, f"{tenant}-{who}") if who else None

    @hub.rpc("who")
    async def who(caller: Caller) -> list[Any]:
        return [caller.identity.user, database.open, isinstance(caller.identity.context, User)]

    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=current_user, name=lambda user: user.name), prefix="/{tenant}")
    app.state.current_user = current_user
    async with running(app, ws) as port:
        yield hub, app, port


@asynccontextmanager
async def running(app: FastAPI, ws: Any) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, ws=ws, log_level="critical", timeout_graceful_shutdown=3))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await wait_until(lambda: server.started)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


CONNECT = '{"id": 1, "connect": {}}\n{"id": 2, "rpc": {"method": "who"}}'


async def ask(port: int, query: str) -> Any:
    """Connect by WebSocket, and return what the application knows of the caller."""
    async with connect(f"ws://127.0.0.1:{port}/acme/connection/websocket?{query}", proxy=None) as client:
        await client.send(CONNECT)
        while True:
            for line in str(await asyncio.wait_for(client.recv(), 10)).splitlines():
                reply = json.loads(line)
                if reply.get("id") == 2:
                    return reply["rpc"]["data"]


async def post(port: int, path: str, body: str) -> bytes:
    """Return the answer to a request as far as it comes with a reply to the call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    found = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while b'"id":2' not in found and b"not you" not in found:
                came = await reader.read(65_536)
                if not came:
                    break
                found += came
    writer.close()
    return found


@ways
def test_what_it_opens_is_closed_before_the_client_is_served(ws: Any) -> None:
    async def main() -> None:
        database = Database()
        async with serving(database, ws) as (_, _, port):
            assert await ask(port, "who=ann") == ["acme-ann", 0, True]
            assert await ask(port, "") == ["", 0, False]
            answer = await post(port, "/acme/connection/http_stream?who=bob", CONNECT)
            assert b'["acme-bob",0,true]' in answer
            assert database.opened == 3
            assert database.open == 0

    asyncio.run(main())


@ways
def test_what_it_refuses_is_refused(ws: Any) -> None:
    async def main() -> None:
        database = Database()
        async with serving(database, ws) as (_, _, port):
            with pytest.raises(InvalidStatus) as refused:
                await ask(port, "who=mallory")
            assert refused.value.response.status_code == 403
            answer = await post(port, "/acme/connection/http_stream?who=mallory", CONNECT)
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert (database.opened, database.open) == (2, 0)

    asyncio.run(main())


def test_an_override_holds_for_it() -> None:
    async def main() -> None:
        database = Database()
        async with serving(database, WebSocketProtocol) as (_, app, port):

            def somebody(as_: Annotated[str, Query(alias="as")]) -> User:
                database.open = 1
                return User(database, as_)

            app.dependency_overrides[app.state.current_user] = somebody
            assert await ask(port, "as=carl") == ["carl", 1, True]
            assert database.opened == 0

    asyncio.run(main())


async def by_query(connection: HTTPConnection) -> str | None:
    if connection.query_params.get("who") == "mallory":
        raise HTTPException(403, "not you")
    return connection.query_params.get("who")


@ways
def test_one_that_needs_nothing_of_fastapi_is_called_directly_and_may_be_overridden(ws: Any) -> None:
    async def main() -> None:
        hub = Hub("memory://")

        @hub.rpc("who")
        async def who(caller: Caller) -> str:
            return caller.identity.user

        app = FastAPI(lifespan=hub.lifespan)
        app.include_router(hub.client_router(user=by_query), prefix="/{tenant}")
        async with running(app, ws) as port:
            assert await ask(port, "who=ann") == "ann"
            assert b'"bob"' in await post(port, "/acme/connection/http_stream?who=bob", CONNECT)
            with pytest.raises(InvalidStatus) as refused:
                await ask(port, "who=mallory")
            assert refused.value.response.status_code == 403
            app.dependency_overrides[by_query] = lambda: "somebody"
            assert await ask(port, "who=ann") == "somebody"

    assert takes_only_the_connection(by_query)
    asyncio.run(main())


def test_one_that_needs_anything_more_is_resolved_by_fastapi() -> None:
    async def with_query(connection: HTTPConnection, who: str = "") -> str:
        return who

    async def of_a_default(connection: HTTPConnection = Depends(by_query)) -> str:
        return ""

    def plain(connection: HTTPConnection) -> str:
        return ""

    assert not any(map(takes_only_the_connection, (with_query, of_a_default, plain, Database().session)))
