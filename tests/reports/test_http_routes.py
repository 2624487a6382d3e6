"""Errors of a hub's verbs in an application's own routes: a made-up channel was a 500 with a traceback each time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from anyio import BrokenResourceError
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from tests.server.live_server import LiveServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from helpers.hubs import Application, run, serving
from tidewire import CommandError, Hub, Position
from tidewire.errors import (
    AlreadyStreaming,
    CutOff,
    EntryChanged,
    InvalidMessage,
    NotPublished,
    PermissionDenied,
    Problem,
    RateLimited,
    Refused,
    StateFailed,
    StoreUnavailable,
    TidewireError,
)
from tidewire.protocols.close_codes import SLOW

TESTS = Path(__file__).parents[1]
RAISED: dict[str, tuple[Exception, int]] = {
    "rights": (PermissionDenied("no"), 403),
    "rate": (RateLimited("slow down", retry_after=1.2), 429),
    "store": (StoreUnavailable("redis://inside:6379 is away"), 503),
    "locked": (NotPublished("/srv/chat.db is locked"), 503),
    "entry": (EntryChanged("changed"), 409),
    "state": (StateFailed("the function failed"), 503),
    "reader": (CutOff("news", SLOW, Position(1, "e")), 503),
    "own": (Refused(410, "gone"), 410),
    "number": (Refused(1_500, "no"), 400),
    "shape": (InvalidMessage("no", (Problem("int_type", ("body", "a"), "no integer"),)), 422),
}


def client_of(running: Application) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}")


def found(error: str) -> None:
    raise RAISED[error][0]


def application(hub: Hub, lifespan: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(GZipMiddleware)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))

    @app.post("/publish")
    async def publish(channel: str) -> str:
        return str(await hub.publish(channel, "x"))

    @app.get("/raised/{error}")
    def raised(found: Annotated[None, Depends(found)]) -> None: ...

    @app.websocket("/found/{error}")
    async def found_socket(websocket: WebSocket, found: Annotated[None, Depends(found)]) -> None: ...

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, accept: bool) -> None:
        if accept:
            await websocket.accept()
        await hub.history("a\0b")

    return app


def test_a_made_up_name_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hub = Hub()
        async with serving(hub, application(hub, hub.lifespan)) as running, client_of(running) as client:
            answer = await client.post("/publish", params={"channel": "a\0b"})
            assert answer.status_code == 400
            assert "cannot be printed" in answer.json()["detail"]
            assert (await client.post("/publish", params={"channel": "fine"})).status_code == 200
            for name, (_, status) in RAISED.items():
                answer = await client.get(f"/raised/{name}")
                assert answer.status_code == status, name
                assert not any(place in answer.text for place in ("inside", "/srv")), "it concerns no client"
            assert (await client.get("/raised/rate")).headers["retry-after"] == "2"
            assert (await client.get("/raised/shape")).json() == {
                "detail": [{"type": "int_type", "loc": ["body", "a"], "msg": "no integer"}]
            }
            async with running.open("/socket?accept=1") as socket:
                with pytest.raises(ConnectionClosed, match=r"1008.*printed"):
                    await socket.recv()
            with pytest.raises(InvalidStatus, match="400"):
                await running.open("/socket?accept=0")
            for name, (_, status) in RAISED.items():  # 503 is what clients try again after; 403 is final
                with pytest.raises(InvalidStatus) as refused:
                    await running.open(f"/found/{name}")
                assert refused.value.response.status_code == status, name
                assert ("retry-after" in refused.value.response.headers) is (status in (429, 503)), name

    run(main())
    assert "'/publish' is answered with 400" in caplog.text
    assert "redis://inside:6379 is away" in caplog.text
    assert "Traceback" not in caplog.text


class Endpoint(WebSocketEndpoint):
    async def on_connect(self, websocket: WebSocket) -> None:
        await fail(websocket)


async def raw(scope: Any, receive: Any, send: Any) -> None:
    await fail(WebSocket(scope, receive, send))


async def fail(websocket: WebSocket) -> None:
    stage = websocket.query_params["stage"]
    if stage != "before":
        await websocket.accept()
    if stage == "sent":
        await websocket.send_text("x")
    if stage == "closed":
        await websocket.close(4_001)
    if stage == "left":
        await websocket.receive()  # the client closes it
    raise StoreUnavailable("away")


class Copying:
    """A middleware that hands a scope of its own on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)


def of_every_kind() -> FastAPI:
    app, inner = FastAPI(), FastAPI()
    for each in (app, inner):
        each.add_middleware(Copying)
        each.router.routes += [WebSocketRoute("/function", fail), WebSocketRoute("/class", Endpoint)]
        each.mount("/raw", raw)
    app.mount("/inner", inner)
    return app


KINDS = ("function", "class", "raw/x", "inner/function", "inner/class", "inner/raw/x")


async def assert_ended_at_every_stage(open_at: Callable[[str], Any]) -> None:
    for kind in KINDS:
        with pytest.raises(InvalidStatus, match="503"):
            await open_at(f"/{kind}?stage=before")
        for stage, code in (("accepted", 1013), ("sent", 1013), ("closed", 4001)):
            async with open_at(f"/{kind}?stage={stage}") as socket:
                await socket.wait_closed()
                assert socket.close_code == code, (kind, stage)
        async with open_at(f"/{kind}?stage=left") as socket:
            await socket.close()


@pytest.mark.parametrize("server", ["websockets-sansio", "hypercorn"])
def test_an_error_ends_a_socket_of_every_kind_before_and_after_it_is_accepted(server: str) -> None:
    async def main() -> None:
        hub, app = Hub(), of_every_kind()
        app.router.lifespan_context = hub.lifespan
        async with serving(hub, app, ws=server) as running:
            await assert_ended_at_every_stage(running.open)

    run(main())


def test_so_it_does_with_tidewire_run(tmp_path: Path) -> None:
    code = (
        "from tests.reports.test_http_routes import of_every_kind\nfrom tidewire import Hub\n"
        "app = of_every_kind()\napp.router.lifespan_context = Hub().lifespan\n"
    )
    (tmp_path / "kinds.py").write_text(code)
    path = ":".join(map(str, (TESTS, TESTS.parent)))
    with LiveServer(tmp_path, "kinds:app", command=("run",), PYTHONPATH=path) as server:
        url = server.url.replace("http", "ws", 1)
        run(assert_ended_at_every_stage(lambda path: connect(url + path)))
        assert server.stop(20) == 0
    assert "Traceback" not in server.err


@pytest.mark.parametrize("class_", [CommandError, TidewireError])
def test_handlers_of_the_application_come_first(class_: type[Exception]) -> None:
    async def own(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse(str(error), 418)

    async def main() -> None:
        hub = Hub()
        app = application(hub, lambda app: hub.lifespan(app))
        app.add_exception_handler(class_, own)
        async with serving(hub, app) as running, client_of(running) as client:
            assert (await client.post("/publish", params={"channel": "a\0b"})).status_code == 418
            away = 418 if class_ is TidewireError else 503
            assert (await client.get("/raised/store")).status_code == away

    run(main())


@pytest.mark.parametrize(
    "error", [AlreadyStreaming("too late"), StoreUnavailable("too late"), CutOff("late", SLOW, Position(1, "e"))]
)
def test_an_error_behind_the_begin_of_an_answer_is_one_line(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that was too slow for its stream, as anybody can be, was a traceback of 70 lines."""
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    async def fail() -> None:
        raise error

    async def words() -> AsyncIterator[str]:
        yield "one"
        raise error

    @app.get("/task")
    async def task(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(words())

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[ServerSentEvent]:
        async for word in words():
            yield ServerSentEvent(data=word)

    @app.get("/other")
    async def other() -> None:
        raise RuntimeError("theirs") from error

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with hub.lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for path in ("/task", "/stream", "/events"):
                with suppress(AssertionError):  # httpx's own, because the end of an answer never comes
                    await client.get(path)
            assert "'/task' failed with" in caplog.text  # the others with the same words are in the limit of the log
            assert str(error) in caplog.text
            with pytest.raises(RuntimeError, match="theirs"):
                await client.get("/other")

    with caplog.at_level(logging.WARNING, "tidewire"):
        run(main())


class Transactions:
    """Middleware that commits after a request, and rolls back after an error."""

    def __init__(self, app: Any, ends: list[str]) -> None:
        self.app, self.ends = app, ends

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except Exception:
            self.ends.append("rollback")
            raise
        self.ends.append("commit")


def test_middleware_sees_an_error_behind_the_begin_of_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It was swallowed below the middleware, which took the request for a success."""
    hub, ends = Hub(), list[str]()
    app = FastAPI(lifespan=hub.lifespan)
    app.add_middleware(Transactions, ends=ends)

    @app.get("/")
    async def failing(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    async def fail() -> None:
        raise StoreUnavailable("gone behind the answer")

    async def main() -> None:
        async with serving(hub, app) as running, client_of(running) as client:
            assert (await client.get("/")).status_code == 200

    with caplog.at_level(logging.WARNING):
        run(main())
    assert ends == ["rollback"]
    assert "'/' failed with 503 after its answer had begun: gone behind the answer" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("has_gone", [True, False])
def test_a_stream_that_the_client_has_cut_is_no_error(has_gone: bool) -> None:
    """FastAPI's event streams raise it now and then when a client goes while they send: nine times in a thousand."""
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["type"] == ("http.disconnect" if has_gone else "http.request")
        raise ExceptionGroup("unhandled errors", [ExceptionGroup("unhandled errors", [BrokenResourceError()])])

    app.mount("/stream", stream)

    async def receive() -> Message:
        return {"type": "http.disconnect" if has_gone else "http.request"}

    async def send(message: Message) -> None:
        pass

    async def main() -> None:
        scope = {"type": "http", "method": "GET", "path": "/stream/", "headers": [], "query_string": b""}
        async with hub.lifespan(app):
            with nullcontext() if has_gone else pytest.raises(ExceptionGroup):
                await app(scope, receive, send)

    run(main())
