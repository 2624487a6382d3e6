"""The shorter way to WebSockets: the same answers, and only where nothing on the usual way is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from tidewire import Hub
from tidewire.server import direct_sockets
from tidewire.server.direct_sockets import DirectSockets

router = APIRouter()


@router.websocket("/plain")
async def plain(websocket: WebSocket) -> None:
    """Take nothing but the WebSocket."""
    await websocket.accept()
    await websocket.send_text("plain")


@router.websocket("/texts/{first}/{second}")
async def texts(second: str, websocket: WebSocket, first: str) -> None:
    """Take texts of the path, too."""
    await websocket.accept()
    await websocket.send_text(f"{first} {second}")


@router.websocket("/number/{number}")
async def number(websocket: WebSocket, number: int) -> None:
    """Take a part of the path that FastAPI converts."""
    await websocket.accept()
    await websocket.send_text(f"{number + 1}")


@router.websocket("/query")
async def query(websocket: WebSocket, q: str) -> None:
    """Take a query parameter."""
    await websocket.accept()
    await websocket.send_text(q)


@router.websocket("/annotated/{first}")
async def annotated(websocket: WebSocket, first: Annotated[str, "a text"]) -> None:
    """Take a text of the path with more than its type."""
    await websocket.accept()
    await websocket.send_text(first)


async def connect(
    app: ASGIApp, path: str, headers: dict[str, str] | None = None, *, root_path: str = ""
) -> list[dict[str, Any]]:
    """Connect and leave; return what the application has sent until its call returned."""
    sent: list[dict[str, Any]] = []
    events = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return events.pop(0) if len(events) > 1 else events[0]

    async def send(event: Any) -> None:
        sent.append(dict(event))

    scope = {
        "type": "websocket",
        "path": f"{root_path}{path}",
        "root_path": root_path,
        "query_string": b"q=asked",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "here", **(headers or {})}.items()],
        "client": ("127.0.0.1", 1),
        "server": ("here", 80),
        "scheme": "ws",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        "asgi": {"version": "3.0"},
        "state": {},
    }
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    await asyncio.sleep(0)
    return sent


async def goes_directly(app: FastAPI, path: str, *, root_path: str = "") -> bool:
    """Return whether the third WebSocket of a path goes a shorter way; all have the same answers."""
    direct = DirectSockets(app)
    sent = await connect(direct, path, root_path=root_path)
    assert sent[0]["type"] == "websocket.accept"
    for _ in range(2):
        assert await connect(direct, path, root_path=root_path) == sent
    # the whole way leads nowhere from now on
    app.router.routes.clear()
    return await connect(direct, path, root_path=root_path) == sent


def application(**options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.include_router(router)
    return app


@pytest.mark.parametrize(
    ("path", "is_direct"),
    [
        ("/plain", True),
        ("/texts/a/b", True),
        ("/number/7", False),
        ("/query", False),
        ("/annotated/a", False),
    ],
)
def test_an_endpoint_of_the_websocket_and_texts_of_the_path_is_called_directly(path: str, is_direct: bool) -> None:
    assert asyncio.run(goes_directly(application(), path)) is is_direct


def test_each_path_has_its_own_texts() -> None:
    async def main() -> None:
        direct = DirectSockets(application())
        for _ in range(4):
            for first in ("a", "b"):
                sent = await connect(direct, f"/texts/{first}/c")
                assert sent[1]["text"] == f"{first} c"

    asyncio.run(main())


class Looks:
    """Middleware that looks at every scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        await self.app(scope, receive, send)


class Overridden(FastAPI):
    """An application that does something first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        await super().__call__(scope, receive, send)


class ByHeader(BaseRoute):
    """A route that may look at anything."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Match nothing."""
        return Match.NONE, {}


class Guarded(APIRouter):
    """A router that may do something before its routes."""


async def allowed() -> None:
    """Let everybody pass."""


def with_middleware() -> FastAPI:
    app = application()
    app.add_middleware(Looks)
    return app


def with_a_wrapped_stack() -> FastAPI:
    app = application()
    app.middleware_stack = Looks(app.build_middleware_stack())
    return app


def with_another_stack() -> FastAPI:
    app = application()
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: build()  # type: ignore[method-assign]
    return app


def with_dependencies_of_an_inclusion() -> FastAPI:
    app = FastAPI()
    app.include_router(router, dependencies=[Depends(allowed)])
    return app


def with_a_host() -> FastAPI:
    app = FastAPI()
    app.host("elsewhere", Starlette())
    app.include_router(router)
    return app


def with_a_route_of_its_own() -> FastAPI:
    app = FastAPI()
    app.router.routes.append(ByHeader())
    app.include_router(router)
    return app


def with_a_router_of_its_own() -> FastAPI:
    app, guarded = FastAPI(), Guarded()
    guarded.include_router(router)
    app.include_router(guarded)
    return app


def with_a_root_path() -> FastAPI:
    app = application()
    app.root_path = "/behind"
    return app


def overridden() -> FastAPI:
    app = Overridden()
    app.include_router(router)
    return app


@pytest.mark.parametrize(
    "make",
    [
        with_middleware,
        with_a_wrapped_stack,
        with_another_stack,
        with_dependencies_of_an_inclusion,
        with_a_host,
        with_a_route_of_its_own,
        with_a_router_of_its_own,
        overridden,
        lambda: application(dependencies=[Depends(allowed)]),
        with_a_root_path,
        lambda: application(debug=True),
    ],
    ids=[
        "middleware",
        "wrapped stack",
        "another stack",
        "dependencies of an inclusion",
        "host",
        "own route",
        "own router",
        "own application",
        "dependencies of the application",
        "root path",
        "debug",
    ],
)
def test_nothing_that_an_application_adds_is_passed_over(make: Callable[[], FastAPI]) -> None:
    assert not asyncio.run(goes_directly(make(), "/plain"))


def test_a_root_path_of_the_server_and_a_mounted_application_go_the_whole_way() -> None:
    async def main() -> None:
        assert not await goes_directly(application(), "/plain", root_path="/behind")
        for prefix in ("/under", ""):
            app = FastAPI()
            app.mount(prefix, application())
            assert not await goes_directly(app, f"{prefix}/plain")

    asyncio.run(main())


def test_a_program_that_watches_applications_sees_every_websocket(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Starlette.__call__

    async def watched(self: Starlette, scope: Scope, receive: Receive, send: Send) -> None:
        await original(self, scope, receive, send)

    monkeypatch.setattr(Starlette, "__call__", watched)
    assert not asyncio.run(goes_directly(application(), "/plain"))


def test_telemetry_of_fastapi_sees_every_websocket() -> None:
    app = application(telemetry={"tracer_provider": TracerProvider()})
    assert not asyncio.run(goes_directly(app, "/plain"))


def test_middleware_that_passes_websockets_on_is_no_hindrance() -> None:
    app = application()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])

    @app.middleware("http")
    async def timed(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    assert asyncio.run(goes_directly(app, "/plain"))


def test_a_way_holds_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_sockets, "_HELD_SECONDS", 0.0)
    assert not asyncio.run(goes_directly(application(), "/plain"))


def test_those_who_come_at_once_go_directly_behind_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Scope] = []
    take = DirectSockets._take

    def counting(self: DirectSockets, way: Any, scope: Scope, receive: Receive, send: Send) -> Any:
        taken.append(scope)
        return take(self, way, scope, receive, send)

    monkeypatch.setattr(DirectSockets, "_take", counting)

    async def main() -> None:
        for path, direct_ones in (("/plain", 8), ("/number/7", 0)):
            taken.clear()
            direct = DirectSockets(application())
            answers = await asyncio.gather(*[connect(direct, path) for _ in range(10)])
            assert len(taken) == direct_ones
            assert answers == [answers[0]] * 10
            assert answers[0][0]["type"] == "websocket.accept"

    asyncio.run(main())


def test_a_client_that_invents_paths_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_sockets, "_PATHS", 3)

    async def main() -> None:
        direct = DirectSockets(application())
        for number in range(20):
            await connect(direct, f"/texts/{number}/b")
            await connect(direct, f"/nowhere/{number}")
            assert len(direct._ways) <= 3

    asyncio.run(main())


class _Own(Exception):
    pass


def test_the_answers_are_those_of_the_usual_way() -> None:
    """A user's dependency with `yield`, refusals, the application's own handlers, and a failure."""
    opened: list[str] = []

    @asynccontextmanager
    async def session() -> AsyncIterator[str]:
        opened.append("open")
        yield "ann"
        opened.append("closed")

    async def presented(connection: HTTPConnection) -> AsyncIterator[str]:
        kind = connection.headers.get("x-user")
        if kind == "eve":
            raise HTTPException(418, "not you", {"X-Why": "eve"})
        if kind == "own":
            raise _Own
        if kind == "bug":
            raise ZeroDivisionError
        async with session() as user:
            yield user

    async def own(websocket: Any, error: Exception) -> None:
        await websocket.close(4_321)

    async def main() -> None:
        hub = Hub()
        app = FastAPI()
        app.include_router(hub.client_router(user=presented))
        app.include_router(hub.protocol_router("/served/{channel}", user=presented))
        app.add_exception_handler(_Own, own)
        direct = DirectSockets(app)
        async with hub:
            for path in ("/connection/websocket", "/served/chat"):
                for _ in range(2):
                    await connect(direct, path)
                for headers in ({}, {"origin": "https://elsewhere"}, {"x-user": "eve"}, {"x-user": "own"}):
                    opened.clear()
                    usual = await connect(app, path, headers)
                    seen, opened[:] = opened[:], []
                    assert await connect(direct, path, headers) == usual
                    assert opened == seen
                for way in (app, direct):
                    with pytest.raises(ZeroDivisionError):
                        await connect(way, path, {"x-user": "bug"})
            assert len(direct._ways) == 2
            assert all(way is not None for _, way in direct._ways.values())

    asyncio.run(main())
