"""A store that is away: clients and callers are told so, and not where it is; the log and the operator are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from tests.contract.serving import Server
from websockets.asyncio.client import connect
from websockets.sync.client import connect as dial

from helpers.hubs import receive, serving
from helpers.stores import start_redis
from tidewire import Hub, NotPublished, PublishUnconfirmed, StoreUnavailable
from tidewire.backends.checked import CheckedBroker, CheckedPresence
from tidewire.http_api import calls
from tidewire.protocols.json import JSON
from tidewire.protocols.plain import PLAIN
from tidewire.protocols.recoverable import RECOVERABLE
from tidewire.support.log_limit import LogLimit

PLACE = "redis://inside:6379"
OUTAGES = [
    (NotPublished(f"not published: {PLACE} cannot be reached"), "not published: the store cannot keep this now"),
    (PublishUnconfirmed(f"{PLACE} did not answer"), "unconfirmed: the store did not answer in time"),
    (StoreUnavailable(f"{PLACE} is away"), "the store cannot be used now"),
]
PROTOCOLS = {"plain": PLAIN, "json": JSON, "recoverable": RECOVERABLE}
SENT = {"plain": "hi", "json": '{"data": 1}', "recoverable": '{"publish": 1}'}


@asynccontextmanager
async def served(hub: Hub) -> AsyncIterator[str]:
    async def endpoint(websocket: WebSocket) -> None:
        name = websocket.query_params["protocol"]
        async with hub.connect(websocket, protocol=PROTOCOLS[name]) as connection:
            async for _ in connection.iter_text():
                await connection.publish("room:1", "hi")

    app = FastAPI(lifespan=hub.lifespan)
    app.websocket("/endpoint")(endpoint)
    app.include_router(hub.client_router())
    for name, protocol in PROTOCOLS.items():
        app.include_router(hub.protocol_router(f"/served-{name}/{{channel}}", protocol))
    async with serving(hub, app) as application:
        yield f"ws://127.0.0.1:{application.port}"


@pytest.mark.parametrize(("error", "told"), OUTAGES, ids=[type(error).__name__ for error, _ in OUTAGES])
@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("kind", ["endpoint", "served"])
def test_no_client_of_a_native_protocol_is_told_where_the_store_is(
    kind: str, name: str, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "endpoint" and isinstance(error, StoreUnavailable):
        pytest.skip("a publish does not raise it")
    caplog.set_level(logging.INFO, "tidewire")
    hub = Hub("memory://")

    @hub.channel("room:{room}")
    async def room(room: int) -> bool:
        return True

    async def failing(self: CheckedBroker, request: Any) -> None:
        raise error

    async def main() -> None:
        async with served(hub) as url:
            path = f"endpoint?protocol={name}" if kind == "endpoint" else f"served-{name}/room:1"
            async with connect(f"{url}/{path}", proxy=None) as client:
                monkeypatch.setattr(CheckedBroker, "publish", failing)
                await client.send(SENT[name])
                answer = await receive(client)
                while "error" not in answer:
                    answer = await receive(client)
        assert told in answer
        assert "inside" not in answer

    asyncio.run(main())
    assert "inside" in caplog.text


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("publish", {"channel": "room:1", "data": 1}),
    ("broadcast", {"channels": ["room:1"], "data": 1}),
    ("history", {"channel": "room:1", "limit": 10}),
    ("presence", {"channel": "room:1"}),
    ("batch", {"commands": [{"publish": {"channel": "room:1", "data": 1}}, {"history": {"channel": "room:1"}}]}),
]


@pytest.mark.parametrize("mode", ["", "transport"])
def test_no_caller_of_the_http_api_is_told_where_the_store_is(
    mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidewire")
    hub = Hub("memory://")

    @hub.channel("room:{room}", history=10, presence=True)
    async def room(room: int) -> bool:
        return True

    async def no_publish(self: CheckedBroker, request: Any) -> None:
        raise PublishUnconfirmed(f"{PLACE} did not answer")

    async def no_read(self: CheckedBroker | CheckedPresence, *arguments: Any, **options: Any) -> None:
        raise StoreUnavailable(f"{PLACE} is away")

    async def main() -> None:
        app = FastAPI(lifespan=hub.lifespan)
        app.include_router(hub.api_router(key="the key"))
        headers = {"X-API-Key": "the key", "X-Centrifugo-Error-Mode": mode}
        async with serving(hub, app) as application:
            monkeypatch.setattr(calls, "_outages", LogLimit())
            monkeypatch.setattr(CheckedBroker, "publish", no_publish)
            monkeypatch.setattr(CheckedBroker, "read", no_read)
            monkeypatch.setattr(CheckedPresence, "members", no_read)
            url = f"http://127.0.0.1:{application.port}/api"
            async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as caller:
                for method, body in CALLS:
                    answer = (await caller.post(f"/{method}", json=body)).text
                    assert "inside" not in answer, method
                    assert "the store" in answer, method

    asyncio.run(main())
    assert f"{PLACE} did not answer" in caplog.text
    assert f"{PLACE} is away" in caplog.text


def test_no_client_of_the_chat_is_told_where_the_store_is(tmp_path: Path) -> None:
    with start_redis(tmp_path) as store:
        server = Server(tmp_path, broker=f"redis://127.0.0.1:{store.port}", limits={"publish_seconds": 1})
        with server.running():
            _, token = server.sign_up()
            with dial(server.url("/ws/auth"), proxy=None) as client:
                client.send(json.dumps({"type": "auth", "token": token}))
                client.send(json.dumps({"type": "chat", "message": "hi", "id": 1}))
                while json.loads(client.recv(10))["type"] != "chat_message":
                    pass
                store.kill()
                client.send(json.dumps({"type": "chat", "message": "hi", "id": 2}))
                client.send(json.dumps({"type": "join", "room": "other"}))
                answers = []
                while len(answers) < 2:
                    answer = json.loads(client.recv(10))
                    if answer["type"] == "error":
                        answers.append(answer)
            assert all("127.0.0.1" not in answer["content"] for answer in answers), answers
            assert f"127.0.0.1:{store.port}" in server.log()
