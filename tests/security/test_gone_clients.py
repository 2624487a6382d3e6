"""A client that goes in the middle of its request leaves no traceback in the log of an application."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import Message

from engine.support import run
from tidewire import Hub
from tidewire.pipelines import Pipelines, router


@pytest.mark.parametrize(
    "path",
    [
        "/emulation",
        "/connection/http_stream",
        "/connection/uni_sse",
        "/api/publish",
        "/pipelines/uploads?name=a",
        "/pipelines/runs",
    ],
)
def test_a_client_that_goes_in_its_request(tmp_path: Path, path: str) -> None:
    came: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return came.pop(0)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def scenario() -> None:
        async with Hub("memory://") as hub, Pipelines(hub, tmp_path / "runs") as pipelines:
            app = FastAPI()
            app.include_router(hub.client_router())
            app.include_router(hub.api_router(key="key"))
            app.include_router(router(pipelines), prefix="/pipelines")
            path_, _, query = path.partition("?")
            headers = [(b"host", b"test"), (b"x-api-key", b"key"), (b"content-length", b"100")]
            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": path_,
                "raw_path": path_.encode(),
                "query_string": query.encode(),
                "root_path": "",
                "headers": headers,
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 80),
            }
            await app(scope, receive, send)
            assert sent[0]["status"] == 400
            assert not list((tmp_path / "runs").glob("uploads/.*"))

    run(scenario())
