"""Errors of a hub's verbs in an application's own routes: a made-up channel was a 500 with a traceback each time."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.websockets import WebSocketDisconnect

from tidewire import CommandError, Hub
from tidewire.errors import (
    EntryChanged,
    InvalidMessage,
    NotPublished,
    PermissionDenied,
    Problem,
    RateLimited,
    Refused,
    StoreUnavailable,
    TidewireError,
)

RAISED: dict[str, tuple[Exception, int]] = {
    "rights": (PermissionDenied("no"), 403),
    "rate": (RateLimited("slow down", retry_after=1.2), 429),
    "store": (StoreUnavailable("away"), 503),
    "locked": (NotPublished("locked"), 503),
    "entry": (EntryChanged("changed"), 409),
    "own": (Refused(410, "gone"), 410),
    "number": (Refused(1_500, "no"), 400),
    "shape": (InvalidMessage("no", (Problem("int_type", ("body", "a"), "no integer"),)), 422),
}


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

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, accept: bool) -> None:
        if accept:
            await websocket.accept()
        await hub.history("a\0b")

    return app


def test_a_made_up_name_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    with TestClient(application(hub, hub.lifespan)) as client:
        answer = client.post("/publish", params={"channel": "a\0b"})
        assert answer.status_code == 400
        assert "cannot be printed" in answer.json()["detail"]
        assert client.post("/publish", params={"channel": "fine"}).status_code == 200
        for name, (_, status) in RAISED.items():
            assert client.get(f"/raised/{name}").status_code == status, name
        assert client.get("/raised/rate").headers["retry-after"] == "2"
        assert client.get("/raised/shape").json() == {
            "detail": [{"type": "int_type", "loc": ["body", "a"], "msg": "no integer"}]
        }
        for accept in (True, False):
            with (
                pytest.raises(WebSocketDisconnect) as caught,
                client.websocket_connect(f"/socket?accept={accept}") as socket,
            ):
                socket.receive_text()
            assert (caught.value.code, "printed" in caught.value.reason) == (1008, True)
    assert "'/publish' is answered with 400" in caplog.text
    assert "Traceback" not in caplog.text


def test_handlers_of_the_application_come_first() -> None:
    async def own(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse(str(error), 418)

    for class_ in (CommandError, TidewireError):
        hub = Hub()
        app = application(hub, lambda app, hub=hub: hub.lifespan(app))
        app.add_exception_handler(class_, own)
        for _ in range(2):  # an application is opened again by its next test
            with TestClient(app) as client:
                assert client.post("/publish", params={"channel": "a\0b"}).status_code == 418
                assert client.get("/raised/store").status_code == (418 if class_ is TidewireError else 503)
