"""The shorter way to WebSockets beside the whole one: endpoints, handlers and guards that could tell them apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect, WebSocketException
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIWebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from server.test_direct_sockets import connect
from tidewire.server import direct_sockets
from tidewire.server.direct_sockets import DirectSockets

Answer = list[dict[str, Any]] | str


class Known(Exception):
    """Answered by a handler that still writes to the client."""


class KnownBetter(Known):
    """Answered by the handler of its base."""


class Translated(Exception):
    """Turned into another exception by its handler."""


class Plain(Exception):
    """Answered by a handler that is no coroutine function."""


class Late(Exception):
    """Its handler came after the application had begun."""


FAULTS: dict[str, Callable[[], Exception]] = {
    "websocket": lambda: WebSocketException(4_001, "no"),
    "http": lambda: HTTPException(418, "teapot", {"X-Why": "tea"}),
    "status": lambda: HTTPException(409, "conflict"),
    "validation": lambda: RequestValidationError([]),
    "known": Known,
    "better": KnownBetter,
    "translated": Translated,
    "plain": Plain,
    "late": Late,
    "unknown": ZeroDivisionError,
    "disconnect": lambda: WebSocketDisconnect(1_001),
    "broken": lambda: OSError("broken"),
}


async def late(websocket: WebSocket, error: Exception) -> None:
    """Close with a code that nobody sees."""
    await websocket.close(4_004)


def application() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(Known)
    async def known(websocket: WebSocket, error: Exception) -> None:
        if websocket.application_state.name == "CONNECTED":
            await websocket.send_text(f"sorry, {websocket.mark}")  # type: ignore[attr-defined]
        await websocket.close(4_002)

    @app.exception_handler(Translated)
    async def translated(websocket: WebSocket, error: Exception) -> None:
        raise WebSocketException(4_003, "translated")

    @app.exception_handler(Plain)
    def plain(websocket: WebSocket, error: Exception) -> None:
        websocket.state.plain = True

    @app.exception_handler(409)
    async def conflict(websocket: WebSocket, error: Exception) -> None:
        await websocket.close(4_009)

    @app.exception_handler(Exception)
    async def everything(websocket: WebSocket, error: Exception) -> None:
        raise AssertionError("never called for a WebSocket")

    @app.websocket("/raise/{kind}/{moment}")
    async def fail(websocket: WebSocket, kind: str, moment: str) -> None:
        websocket.mark = kind  # type: ignore[attr-defined]
        if moment == "after":
            await websocket.accept()
        elif moment == "closed":
            await websocket.accept()
            await websocket.close()
        raise FAULTS[kind]()

    return app


async def answered(app: ASGIApp, path: str, headers: dict[str, str] | None = None) -> Answer:
    try:
        return await connect(app, path, headers)
    except Exception as error:
        await asyncio.sleep(0)  # a way is judged in the next turn
        return repr(error)


async def both(app: FastAPI, path: str, headers: dict[str, str] | None = None) -> tuple[Answer, Answer, bool]:
    """Return the answers of the whole way and of the shorter one, and whether there is a shorter one."""
    direct = DirectSockets(app)
    whole = await answered(app, path, headers)
    for _ in range(2):
        assert await answered(direct, path, headers) == whole
    way = direct._ways.get(path, (0.0, None))[1]
    return whole, await answered(direct, path, headers), way is not None


@pytest.mark.parametrize("moment", ["before", "after", "closed"])
@pytest.mark.parametrize("kind", FAULTS)
def test_exceptions_are_answered_as_the_application_does(kind: str, moment: str) -> None:
    async def main() -> None:
        app = application()
        await answered(app, "/nowhere")  # it has begun, with the handlers of now
        app.add_exception_handler(Late, late)
        whole, short, is_direct = await both(app, f"/raise/{kind}/{moment}")
        assert is_direct
        assert short == whole

    asyncio.run(main())


async def tell(websocket: WebSocket, **texts: str) -> None:
    """Tell all that the application has noted."""
    await websocket.accept()
    scope = websocket.scope
    told = {
        "texts": texts,
        "parameters": websocket.path_params,
        "route": scope["route"].path,
        "endpoint": scope["endpoint"].__name__,
        "app": scope["app"].title,
        "router": type(scope["router"]).__name__,
        "url": str(websocket.url_for("named", tenant="a", rest="b/c")),
        "state": sorted(scope["state"]),
    }
    await websocket.send_text(json.dumps(told))


def routed() -> FastAPI:
    app, inner, innermost = FastAPI(title="routed"), APIRouter(prefix="/in"), APIRouter()

    @innermost.websocket("/{tenant}/{rest:path}", name="named")
    async def rest(websocket: WebSocket, rest: str, tenant: str) -> None:
        await tell(websocket, rest=rest, tenant=tenant)

    @inner.websocket("/number/{number:int}")
    async def number(websocket: WebSocket) -> None:
        await tell(websocket)

    @app.websocket("/one/{name}")
    async def first(websocket: WebSocket, name: str) -> None:
        await tell(websocket, name=name)

    @app.websocket("/one/two")
    async def second(websocket: WebSocket) -> None:
        raise AssertionError("the first route takes it")

    @app.websocket("/slash/")
    async def slash(websocket: WebSocket) -> None:
        await tell(websocket)

    @app.get("/in/t/page")
    async def page() -> None:
        """Take no WebSocket."""

    inner.include_router(innermost, prefix="/deep")
    app.include_router(inner)
    return app


@pytest.mark.parametrize(
    ("path", "is_direct"),
    [
        ("/one/two", True),
        ("/one/é ü%2F", True),
        ("/one/", False),
        ("/in/number/7", True),
        ("/in/number/seven", False),
        ("/in/deep/t/a/b", True),
        ("/in/deep/t/", True),
        ("/in/deep/t//b", True),
        ("/in/t/page", False),
        ("/slash/", True),
        ("/slash", False),
        ("//slash/", False),
    ],
)
def test_routes_and_their_notes_are_the_same(path: str, is_direct: bool) -> None:
    whole, short, was_direct = asyncio.run(both(routed(), path))
    assert was_direct is is_direct
    assert short == whole


def test_each_websocket_has_parameters_of_its_own() -> None:
    app = FastAPI()

    @app.websocket("/take/{name}")
    async def take(websocket: WebSocket, name: str) -> None:
        mine = websocket.path_params.pop("name")
        websocket.path_params["other"] = mine
        await websocket.accept()
        await websocket.send_text(f"{mine} {name}")

    async def main() -> None:
        direct = DirectSockets(app)
        whole = await connect(app, "/take/ann")
        for _ in range(4):
            assert await connect(direct, "/take/ann") == whole
        assert direct._ways["/take/ann"][1] is not None

    asyncio.run(main())


class Guard:
    """Lets one user through to what it is in front of."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass ann on."""
        if scope["type"] == "websocket" and (b"x-user", b"ann") not in scope["headers"]:
            await send({"type": "websocket.close", "code": 4_003})
            return
        await self.app(scope, receive, send)


def inner_router() -> APIRouter:
    router = APIRouter()

    @router.websocket("/guarded/{name}")
    async def inside(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        await websocket.send_text(name)

    return router


def passed_on() -> FastAPI:
    """An endpoint that passes its WebSocket on."""
    app, guarded = FastAPI(), Guard(inner_router())

    @app.websocket("/guarded/{rest:path}")
    async def guard(websocket: WebSocket, rest: str) -> None:
        await guarded(websocket.scope, websocket.receive, websocket.send)

    return app


def renamed() -> FastAPI:
    """An endpoint that passes its WebSocket on under another path."""
    app, router = FastAPI(), inner_router()

    @app.websocket("/guarded/{name}")
    async def guard(websocket: WebSocket, name: str) -> None:
        websocket.scope["path"] = "/guarded/other"
        await Guard(router)(websocket.scope, websocket.receive, websocket.send)

    return app


def mounted(at: str) -> FastAPI:
    app = FastAPI()
    app.mount(at, Guard(inner_router()))
    return app


def guarded_router() -> FastAPI:
    app = FastAPI()
    app.include_router(inner_router())
    app.router.middleware_stack = Guard(app.router.middleware_stack)
    return app


def guarded_route() -> FastAPI:
    app = FastAPI()
    app.router.routes.extend(inner_router().routes)
    for route in app.routes:
        if isinstance(route, APIWebSocketRoute):
            route.app = Guard(route.app)
    return app


def guarded_handle() -> FastAPI:
    app = FastAPI()
    app.router.routes.extend(inner_router().routes)
    for route in app.routes:
        if isinstance(route, APIWebSocketRoute):
            route.handle = Guard(route.handle)  # type: ignore[method-assign]
    return app


async def only_ann(websocket: WebSocket) -> None:
    """Refuse everybody else."""
    if websocket.headers.get("x-user") != "ann":
        raise WebSocketException(4_003)


def late_dependency() -> FastAPI:
    app = FastAPI()
    app.router.routes.extend(inner_router().routes)
    for route in app.routes:
        if isinstance(route, APIWebSocketRoute):
            depends = get_parameterless_sub_dependant(depends=Depends(only_ann), path=route.path)
            route.dependant.dependencies.insert(0, depends)
    return app


@pytest.mark.parametrize(
    "make",
    [
        passed_on,
        renamed,
        lambda: mounted("/"),
        lambda: mounted(""),
        guarded_router,
        guarded_route,
        guarded_handle,
        late_dependency,
    ],
    ids=["endpoint", "renamed", "mount at /", "mount", "router", "route", "handle", "late dependency"],
)
def test_no_guard_is_passed_over(make: Callable[[], FastAPI]) -> None:
    """Somebody who may come in goes first; the next one may not."""

    async def main() -> None:
        app = make()
        direct = DirectSockets(app)
        for path in ("/guarded/chat", "/guarded/other"):
            refused = await connect(app, path)
            assert refused[0]["type"] == "websocket.close"
            for _ in range(4):
                welcome = await connect(direct, path, {"x-user": "ann"})
                assert welcome[0]["type"] == "websocket.accept"
                assert await connect(direct, path) == refused

    asyncio.run(main())


def test_an_endpoint_that_renames_its_path_is_not_found_there() -> None:
    app = FastAPI()

    @app.websocket("/open")
    async def public(websocket: WebSocket) -> None:
        websocket.scope["path"] = "/closed"
        await websocket.accept()

    @app.websocket("/closed")
    async def closed(websocket: WebSocket) -> None:
        await websocket.close(4_003)

    async def main() -> None:
        direct = DirectSockets(app)
        for _ in range(4):
            assert (await connect(direct, "/open"))[0]["type"] == "websocket.accept"
            assert (await connect(direct, "/closed"))[0]["type"] == "websocket.close"

    asyncio.run(main())


@pytest.mark.parametrize("method", ["build_middleware_stack", "__call__"])
def test_a_program_that_replaces_a_method_sees_every_websocket(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    class_ = FastAPI if method == "build_middleware_stack" else APIRouter
    original = getattr(class_, method)
    monkeypatch.setattr(class_, method, lambda *arguments: original(*arguments))
    assert asyncio.run(both(application(), "/raise/known/after"))[2] is False


def test_nothing_is_judged_where_each_client_has_a_path_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        direct = DirectSockets(routed())
        monkeypatch.setattr(direct, "_judge", None)
        for number in range(3):
            assert (await connect(direct, f"/one/{number}"))[0]["type"] == "websocket.accept"

    asyncio.run(main())


def test_long_paths_that_clients_invent_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        app = routed()
        direct = DirectSockets(app)
        path = "/one/" + "x" * direct_sockets._PATH_LENGTH
        for _ in range(2):
            assert await connect(direct, path) == await connect(app, path)
        assert not direct._ways

    asyncio.run(main())
