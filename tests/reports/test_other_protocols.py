"""Clients of other protocols, and wrong paths: one sentence, a line in the log, and 404."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import socketio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from contract.serving import Server, until

APPLICATION = """
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
from tidewire import Hub

hub = Hub("memory://")
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router())
inner = FastAPI()
router = APIRouter(prefix="/prefix")

@router.websocket("/ws")
@inner.websocket("/ws")
async def refuse(websocket: WebSocket):
    await websocket.close()

@app.get("/apps/7/events")
async def mine():
    return "mine"

@app.get("/users/{user}/graphql")
async def query(user: str):
    raise HTTPException(404, "no such user")

app.include_router(router)
app.mount("/inner", inner)
"""
SENTENCE = "is not spoken here: this server speaks WebSocket, server-sent events and the Centrifuge protocol"


@pytest.fixture(scope="module", params=["run", "serve"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    source = tmp_path_factory.mktemp("source") / "main.py"
    source.write_text(APPLICATION)
    with Server(folder, app=source if request.param == "run" else None).running() as running:
        yield running


def refusal(server: Server, path: str, *subprotocols: str) -> tuple[int, str]:
    offered: Any = list(subprotocols) or None
    with pytest.raises(InvalidStatus) as caught, connect(server.url(path), subprotocols=offered):
        pass
    return caught.value.response.status_code, caught.value.response.body.decode()


@pytest.mark.parametrize(
    ("name", "path", "subprotocols"),
    [
        ("Socket.IO", "/socket.io/?EIO=4&transport=websocket", ()),
        ("Pusher", "/app/key?protocol=7&client=js&version=8.4.0", ()),
        ("GraphQL", "/graphql", ("graphql-transport-ws",)),
        ("GraphQL", "/anything", ("graphql-ws",)),
        ("MQTT", "/mqtt", ("mqtt",)),
        ("STOMP", "/stomp", ("v12.stomp", "v11.stomp")),
        ("Phoenix Channels", "/socket/websocket?vsn=2.0.0", ()),
        ("Action Cable", "/cable", ("actioncable-v1-json",)),
    ],
)
def test_a_websocket_of_another_protocol(server: Server, name: str, path: str, subprotocols: tuple[str, ...]) -> None:
    status, text = refusal(server, path, *subprotocols)
    assert status == 404
    assert text.startswith(f"{name} {SENTENCE}")


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("Socket.IO", "GET", "/socket.io/?EIO=4&transport=polling"),
        ("Socket.IO", "POST", "/socket.io/?EIO=4&transport=polling&sid=x"),
        ("SignalR", "POST", "/chatHub/negotiate?negotiateVersion=1"),
        ("Pusher", "POST", "/apps/1/events"),
        ("Pusher", "POST", "/broadcasting/auth"),
        ("GraphQL", "POST", "/graphql"),
        ("SockJS", "GET", "/sockjs/info"),
        ("Mercure", "GET", "/.well-known/mercure?topic=x"),
    ],
)
def test_a_request_of_another_protocol(server: Server, name: str, method: str, path: str) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code == 404
    assert answer.text.startswith(f"{name} {SENTENCE}")


def test_a_real_socketio_client_is_told_and_logged(server: Server) -> None:
    client = socketio.SimpleClient()
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(f"http://127.0.0.1:{server.port}", wait_timeout=5)
    until(lambda: "refused (foreign_client): a client of " in server.log(), what="the log says so")


def test_wrong_paths_are_404_and_refusals_403(server: Server) -> None:
    status, text = refusal(server, "/no/such/path")
    assert (status, text) == (404, "no WebSocket is served at this path\n")
    if server.http.get("/apps/7/events").text == '"mine"':  # the application; a route of its own is left alone
        assert server.http.get("/users/7/graphql").json() == {"detail": "no such user"}
        assert server.http.get("/inner/cable").text.startswith("Action Cable")
        assert refusal(server, "/inner/nothing")[0] == 404
        assert refusal(server, "/inner/ws")[0] == 403
        assert refusal(server, "/prefix/ws")[0] == 403
        assert refusal(server, "/prefix/nothing")[0] == 404


@pytest.mark.parametrize("path", ["/connection/websocket", "/connection/uni_websocket"])
def test_a_plain_get_of_a_websocket_path(server: Server, path: str) -> None:
    """A proxy that does not pass the upgrade was answered 404 in an application with `hub.client_router()`."""
    for method in ("GET", "HEAD"):
        answer = server.http.request(method, path)
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert httpx.post(f"http://127.0.0.1:{server.port}{path}").status_code in (404, 405)


@pytest.mark.parametrize("path", ["sse?cf_connect=%7B%22id%22:1,%22connect%22:%7B%7D%7D", "uni_sse"])
def test_the_head_of_an_event_stream(server: Server, path: str) -> None:
    """A monitor that asks with HEAD was answered 405; it gets the head of the answer, and nothing is opened."""
    answer = server.http.head(f"/connection/{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert server.http.head("/connection/sse").status_code == 400


def test_a_plain_get_of_an_endpoint_of_the_application(server: Server) -> None:
    """It was 404 "Not Found" (uvicorn: "Unsupported upgrade request"), as if the path were wrong."""
    if server.http.get("/apps/7/events").text != '"mine"':
        return
    for path in ("/inner/ws", "/prefix/ws"):
        for method in ("GET", "HEAD"):
            answer = server.http.request(method, path)
            assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        assert server.http.post(path).status_code == 404
    for path in ("/inner/nothing", "/prefix/nothing", "/nothing"):
        assert server.http.get(path).status_code == 404
    assert server.http.get("/users/7/nobody").status_code == 404
