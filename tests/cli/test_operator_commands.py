"""The commands that watch and act, against two workers: by the API of the server, and by its store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.server.live_server import LiveServer, tidewire, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

KEY = "the-kéy-of-the-ΑPI"  # letters beyond ASCII, and beyond Latin-1
APPLICATION = f"""
from fastapi import FastAPI, WebSocket
from tidewire import Hub, Permissions

hub = Hub("sqlite:///x.db")
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router())
app.include_router(hub.api_router(key={KEY!r}))

@hub.channel("room:{{room}}", presence=True)
async def room(room: str, user: str) -> bool | Permissions:
    return Permissions(subscribe=True) if user == "guest" else user != ""

@app.websocket("/ws/{{user}}")
async def ws(websocket: WebSocket, user: str):
    async with hub.connect(websocket, user=user) as connection:
        await connection.subscribe("room:lobby")
        await connection.subscribe(f"room:{{user}}")
        async for text in connection.iter_text():
            await connection.publish("room:lobby", text)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "watched.py").write_text(APPLICATION)
    (folder / "key").write_text(f"{KEY}\n")
    with LiveServer(folder, "watched:app", "--workers", "2", command=("run",)) as running:
        yield running


@pytest.fixture(scope="module", params=["server", "store"])
def target(request: pytest.FixtureRequest, server: LiveServer) -> list[str]:
    if request.param == "store":
        return ["--broker", "sqlite:///x.db"]
    return ["--server", server.url, "--key-file", "key"]


@pytest.fixture(scope="module")
def clients(server: LiveServer) -> Iterator[int]:
    with ExitStack() as stack:
        for number in range(30):
            stack.enter_context(connect(f"{server.websocket_url}/ws/ann{number}", proxy=None, ping_interval=None))
        yield 30


def done(server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return tidewire(*arguments, folder=server.folder, COLUMNS="200")


def test_status_agrees_with_the_generator(server: LiveServer, target: list[str], clients: int) -> None:
    def connections() -> tuple[int, float, float]:
        nodes = json.loads(done(server, "status", *target, "--json").stdout)["nodes"]
        return len(nodes), sum(node["connections"] for node in nodes), sum(node["subscriptions"] for node in nodes)

    wait_for(lambda: connections() == (2, clients, 2 * clients), what="both workers with all connections")
    screen = done(server, "status", *target)
    assert (screen.returncode, screen.stderr) == (0, "")
    assert "store: answers" in screen.stdout
    assert [line.split()[:3] for line in screen.stdout.splitlines() if line.startswith("all")] == [["all", "2", "30"]]


def test_lists_are_paged_and_searched(server: LiveServer, target: list[str], clients: int) -> None:
    found = json.loads(done(server, "connections", "--limit", "7", "--offset", "25", *target, "--json").stdout)
    assert (found["total"], len(found["connections"])) == (clients, 5)
    one = json.loads(done(server, "connections", "ANN17", *target, "--json").stdout)["connections"]
    assert [(row["user"], row["channels"], row["state"]) for row in one] == [
        ("ann17", ["room:lobby", "room:ann17"], "open")
    ]
    listed = json.loads(done(server, "channels", "--limit", "1", *target, "--json").stdout)
    assert listed["total"] == clients + 1
    assert [(row["channel"], row["subscribers"], row["pattern"]) for row in listed["channels"]] == [
        ("room:lobby", clients, "room:{room}")
    ]
    assert "room:ann3 " in done(server, "channels", "ann3", *target).stdout


@pytest.mark.parametrize(
    ("question", "code", "words"),
    [
        (["guest", "room:lobby"], 1, "guest may not publish in room:lobby: this client may not publish"),
        (["guest", "room:lobby", "subscribe"], 0, "guest may subscribe"),
        (["ann", "room:lobby", "publish"], 0, "rule room:{room}"),
        (["", "room:lobby", "subscribe"], 1, "a stranger may not subscribe"),
        (["ann", "elsewhere", "subscribe"], 1, "no rule is for channel 'elsewhere'"),
        (["ann", "room:lobby", "fly"], 2, "action: input should be 'subscribe'"),
        (["ann", "", "publish"], 2, "channel: "),
    ],
)
def test_why_names_the_rule(server: LiveServer, question: list[str], code: int, words: str) -> None:
    ended = done(server, "why", *question, "--server", server.url, "--key-file", "key")
    assert ended.returncode == code
    assert words in ended.stdout + ended.stderr


def test_why_asks_the_rules_of_a_server_by_its_store(server: LiveServer) -> None:
    found = json.loads(done(server, "why", "guest", "room:1", "--broker", "sqlite:///x.db", "--json").stdout)
    assert (found["allowed"], found["rule"]) == (False, "room:{room}")


def test_disconnect_ends_the_connections_of_a_user_on_any_worker(server: LiveServer, target: list[str]) -> None:
    with connect(f"{server.websocket_url}/ws/gone", proxy=None) as one:
        wait_for(lambda: '"gone"' in done(server, "connections", "gone", *target, "--json").stdout, what="it")
        ended = json.loads(done(server, "disconnect", "gone", *target, "--json").stdout)
        assert len(ended["disconnected"]) == 1
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "http://127.0.0.1:1"], "does not answer"),
        (["--server", "localhost"], "is no address"),
        (["--broker", "memory://"], "lives inside the server's process"),
        (["--broker", "sqlite:///none.db"], "none.db does not exist"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    ended = tidewire("status", *arguments, folder=tmp_path)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_server_is_asked_with_its_key_alone(server: LiveServer) -> None:
    ended = done(server, "status", "--server", server.url)
    assert ended.returncode == 2
    assert "wants the key of its HTTP API" in ended.stderr
    (server.folder / "wrong").write_text("wrong")
    assert done(server, "status", "--server", server.url, "--key-file", "wrong").returncode == 2


def test_a_redirect_is_told_and_gets_no_key(tmp_path: Path) -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/taken/api/status")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "key").write_text(KEY)
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{found.server_address[1]}"
        ended = tidewire("status", "--server", url, "--key-file", "key", folder=tmp_path)
        found.shutdown()
    assert asked == ["/api/status"]
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert f"--server {url}/taken" in ended.stderr


def test_top_writes_a_line_each_second_for_a_program(server: LiveServer, target: list[str], clients: int) -> None:
    command = [sys.executable, "-m", "tidewire", "top", "--json", *target]
    with subprocess.Popen(command, cwd=server.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        lines = [json.loads(running.stdout.readline()) for _ in range(3)]
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
        assert running.stderr.read() == b""
    assert [len(line["nodes"]) for line in lines] == [2, 2, 2]
    first, last = (min(node["uptime"] for node in line["nodes"]) for line in (lines[0], lines[-1]))
    assert last - first >= 1.5
