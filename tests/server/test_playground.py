"""`tidewire serve --playground`: for this machine, never in production, and faults that reach any worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from helpers.stores import start_redis
from server.live_server import LiveServer, tidewire, wait_for
from test_docs import speak

CHANNEL = "playground:test"


@pytest.mark.parametrize(
    ("arguments", "variables", "file"),
    [
        (("--playground", "--host", "0.0.0.0"), {}, ""),
        (("--host", "0.0.0.0"), {"TIDEWIRE_PLAYGROUND": "true"}, ""),
        (("--host", "0.0.0.0"), {}, "playground = true\n"),
        (("--playground", "--host", "0.0.0.0"), {"FASTAPI_ENV": "development"}, ""),
        (("--playground",), {"FASTAPI_ENV": "production"}, ""),
        ((), {"FASTAPI_ENV": "production"}, "playground = true\n"),
        ((), {"FASTAPI_ENV": "staging", "TIDEWIRE_PLAYGROUND": "1"}, ""),
    ],
)
def test_it_refuses_to_start_in_production(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], file: str
) -> None:
    if file:
        (tmp_path / "tidewire.toml").write_text(file)
    found = tidewire("serve", "--port", "0", *arguments, folder=tmp_path, **variables)
    assert found.returncode == 2
    assert "the playground is for development alone" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_it_is_there_when_it_is_asked_for_or_development(tmp_path: Path) -> None:
    for arguments, variables, status in (
        ((), {}, 404),
        ((), {"FASTAPI_ENV": "production"}, 404),
        (("--host", "0.0.0.0"), {"FASTAPI_ENV": "development"}, 404),
        ((), {"FASTAPI_ENV": "development"}, 200),
        (("--no-playground",), {"FASTAPI_ENV": "development"}, 404),
    ):
        with LiveServer(tmp_path, *arguments, **variables) as server:
            server.url = server.url.replace("0.0.0.0", "127.0.0.1")
            assert server.get("/playground").status_code == status, (arguments, variables)
            assert ("Playground" in server.get("/").text) == (status == 200)
            answer = server.post("/playground/api/hang", json={"seconds": 1}, headers={"host": "127.0.0.1"})
            assert answer.status_code == status


@pytest.fixture(params=["sqlite", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    if request.param == "sqlite":
        yield ()
    else:
        with start_redis(tmp_path) as server:
            yield ("--broker", f"redis://127.0.0.1:{server.port}")


class Play:
    """The calls of a playground, and raw clients of it."""

    def __init__(self, server: LiveServer, sockets: contextlib.ExitStack) -> None:
        self._server = server
        self._sockets = sockets

    def call(self, method: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._server.post(f"/playground/api/{method}", json=body).json()
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, user: str, **since: Any) -> tuple[ClientConnection, dict[str, Any]]:
        url = f"{self._server.websocket_url}/playground/connection?user={user}"
        socket = self._sockets.enter_context(connect(url, proxy=None))
        replies = speak(socket, {"connect": {}}, {"subscribe": {"channel": CHANNEL, **since}})
        return socket, replies[2]["subscribe"]

    def row(self, user: str) -> dict[str, Any] | None:
        rows = self.call("connection_list", user=user)["connections"]
        return rows[0] if rows else None


def until_lost(socket: ClientConnection) -> list[str]:
    """Return what comes until the connection ends, which it must do without a close frame."""
    came: list[str] = []
    with contextlib.suppress(ConnectionClosed):
        while message := socket.recv(timeout=10):
            came.append(str(message))
    assert socket.close_code == 1006
    return came


@pytest.mark.slow
def test_a_fault_reaches_its_connection_on_any_worker(tmp_path: Path, broker: tuple[str, ...]) -> None:
    with LiveServer(tmp_path, "--playground", "--workers", "2", *broker) as server, contextlib.ExitStack() as opened:
        play = Play(server, opened)
        sockets = {}
        while len({row["node"] for user in sockets if (row := play.row(user))}) < 2:  # until each worker has one
            user = f"user-{len(sockets)}"
            sockets[user] = play.open(user)
            assert len(sockets) < 40
        for user, (socket, subscribed) in sockets.items():
            assert play.call("cut", user=user, seconds=0.5)["clients"] == [play.row(user)["client"]]  # type: ignore[index]
            sent = [play.call("publish", channel=CHANNEL, data=[user, n])["offset"] for n in range(14)]
            assert not [one for one in until_lost(socket) if f'["{user}",' in one]
            top, epoch = max(0, sent[0] - 1), subscribed["epoch"]
            _, answer = play.open(user, recover=True, offset=top, epoch=epoch)
            assert answer["recovered"]
            assert [one["data"] for one in answer["publications"]] == [[user, n] for n in range(14)]


@pytest.mark.slow
def test_the_worker_of_a_connection_is_killed_and_replaced(tmp_path: Path, broker: tuple[str, ...]) -> None:
    with LiveServer(tmp_path, "--playground", "--workers", "2", *broker) as server, contextlib.ExitStack() as opened:
        play = Play(server, opened)
        socket, subscribed = play.open("ann")
        before = set(server.workers())
        play.call("kill", user="ann")
        until_lost(socket)
        wait_for(lambda: len(set(server.workers()) - before) == 1, what="a new worker")
        for n in range(14):
            play.call("publish", channel=CHANNEL, data=n)
        position = {"offset": subscribed.get("offset", 0), "epoch": subscribed["epoch"]}
        _, answer = play.open("ann", recover=True, **position)
        assert (answer["recovered"], [one["data"] for one in answer["publications"]]) == (True, list(range(14)))
