"""What a client has asked for and not taken, in bytes of a real server: one reply, however much it asks for."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from server.live_server import LiveServer, wait_for

pytestmark = pytest.mark.xdist_group("reply-memory")

CONFIG = """
[client]
allow_anonymous_connect_without_token = true
[limits]
stalled_seconds = 5
[http_api]
key = "the key"
[channel.without_namespace]
presence = true
history_size = 300
history_ttl = "300s"
allow_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_history_for_client = true
allow_history_for_anonymous = true
allow_presence_for_client = true
allow_presence_for_anonymous = true
"""
#: Clients that read nothing, and what each of them may cost, in MiB.
GREEDY, EACH = 16, 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("replies")
    (folder / "tidewire.toml").write_text(CONFIG)
    with LiveServer(folder) as server:
        fill(server)
        with ThreadPoolExecutor(GREEDY) as pool:  # each reader of the store keeps its pages, once
            list(pool.map(read_all, [server] * GREEDY))
        yield server


def fill(server: LiveServer) -> None:
    """Publish 300 times 50 kB in the channel `big`."""
    commands = [{"publish": {"channel": "big", "data": "x" * 50_000}} for _ in range(300)]
    for start in range(0, 300, 50):
        body = json.dumps({"commands": commands[start : start + 50]})
        assert server.post("/api/batch", content=body, headers={"X-API-Key": "the key"}).status_code == 200


def resident(server: LiveServer) -> float:
    """Return the memory of the worker, in MiB."""
    found = [
        int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())[0]) / 1024
        for worker in server.workers() or [server.process.pid]
    ]
    return max(found)


@contextmanager
def greedy(server: LiveServer, *commands: dict[str, object]) -> Iterator[ClientConnection]:
    """Connect a client that asks for much and reads nothing."""
    sock = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    url = server.websocket_url + "/connection/websocket"
    options: dict[str, Any] = {"proxy": None, "max_queue": 1, "compression": None, "ping_interval": None}
    with connect(url, sock=sock, close_timeout=0.1, **options) as client:
        client.send(json.dumps({"id": 1, "connect": {}}))
        client.recv(timeout=10)
        for number, command in enumerate(commands, 2):
            client.send(json.dumps({"id": number, **command}))
        yield client


@pytest.mark.parametrize("command", ["history", "reverse", "recover"])
def test_clients_that_ask_for_much_and_read_nothing_cost_one_reply_each(server: LiveServer, command: str) -> None:
    history: dict[str, object] = {"channel": "big", "limit": 300, "reverse": command == "reverse"}
    asked: list[dict[str, object]] = [{"history": history} for _ in range(16)]
    if command == "recover":
        wish = {"channel": "big", "recover": True, "recoverable": True, "offset": 281}
        asked = [part for _ in range(16) for part in ({"subscribe": wish}, {"unsubscribe": {"channel": "big"}})]
    with ExitStack() as stack:
        bystander = stack.enter_context(greedy(server))
        before, worst, delays = resident(server), 0.0, []
        clients = [stack.enter_context(greedy(server, *asked)) for _ in range(GREEDY)]
        end = time.monotonic() + 3
        while time.monotonic() < end:
            asked_at = time.perf_counter()
            bystander.send(json.dumps({"id": 100, "presence_stats": {"channel": "small"}}))
            bystander.recv(timeout=10)
            delays.append(time.perf_counter() - asked_at)
            worst = max(worst, resident(server))
            time.sleep(0.01)
        assert worst - before <= GREEDY * EACH, f"{(worst - before) / GREEDY:.1f} MiB each"
        assert sorted(delays)[len(delays) // 2] < 0.05
        for client in clients:
            client.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: resident(server) < before + GREEDY / 2, seconds=15, what="the memory given back")


def read_all(server: LiveServer) -> int:
    """Read the whole history by pages; return how many publications that was."""
    offset, found = 0, 0
    with connect(server.websocket_url + "/connection/websocket", proxy=None, max_size=None) as client:
        client.send(json.dumps({"id": 1, "connect": {}}))
        client.recv(timeout=10)
        while True:
            since = {"offset": offset, "epoch": ""}
            client.send(json.dumps({"id": 2, "history": {"channel": "big", "limit": 300, "since": since}}))
            page = json.loads(client.recv(timeout=10))["history"].get("publications", [])
            if not page:
                break
            assert sum(len(publication["data"]) for publication in page) <= 1_048_576
            found, offset = found + len(page), page[-1]["offset"]
    return found


def test_a_client_that_reads_is_given_all_by_pages(server: LiveServer) -> None:
    assert read_all(server) == 300
