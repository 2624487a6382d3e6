"""A history that is too large for one page: whole by itself, bounded in a batch, and in few bytes of the server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from server.live_server import LiveServer, wait_for
from sessions.test_reply_memory import CONFIG, fill, resident

pytestmark = pytest.mark.xdist_group("reply-memory")

KEY = {"X-API-Key": "the key"}
#: Callers that read nothing, and what each of them may cost, in MiB.
GREEDY, EACH = 12, 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("histories")
    (folder / "tidewire.toml").write_text(CONFIG)
    with LiveServer(folder) as server:
        fill(server)
        yield server


def test_a_large_history_is_read_whole(server: LiveServer) -> None:
    asked = {"channel": "big", "limit": -1}
    answer = server.post("/api/history", json=asked, headers=KEY).json()["result"]
    offsets = [publication["offset"] for publication in answer["publications"]]
    assert (offsets, answer["offset"]) == (list(range(1, 301)), 300)
    newest = server.post("/api/history", json=asked | {"reverse": True, "limit": 250}, headers=KEY).json()["result"]
    assert [publication["offset"] for publication in newest["publications"]] == list(range(300, 50, -1))
    since = {"offset": 20, "epoch": answer["epoch"]}
    later = server.post("/api/history", json=asked | {"since": since}, headers=KEY).json()["result"]
    assert [publication["offset"] for publication in later["publications"]] == list(range(21, 301))
    wrong = server.post("/api/history", json=asked | {"since": {"offset": 1, "epoch": "other"}}, headers=KEY).json()
    assert wrong["error"]["code"] == 112


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_of_histories_is_bounded(server: LiveServer, parallel: bool) -> None:
    page = {"history": {"channel": "big", "limit": 30}}
    body = {"commands": [{"history": {"channel": "big", "limit": -1}}, *[page] * 20], "parallel": parallel}
    whole, *pages = server.post("/api/batch", json=body, headers=KEY).json()["replies"]
    assert "each alone" in whole["error"]["detail"]
    given = [reply for reply in pages if "history" in reply]
    assert 5 <= len(given) < 20
    assert all(len(reply["history"]["publications"]) == 30 for reply in given)
    lines = "\n".join([json.dumps({"method": "history", "params": page["history"]})] * 20)
    answers = server.post("/api", content=lines, headers=KEY).text.splitlines()
    assert 5 <= sum('"publications"' in answer for answer in answers) < 20


def test_callers_that_read_nothing_cost_little(server: LiveServer) -> None:
    cost_of_callers(server)  # what each reader of the store keeps is kept once
    before = resident(server)
    assert cost_of_callers(server) <= GREEDY * EACH
    wait_for(lambda: resident(server) < before + GREEDY, seconds=15, what="the memory given back")


def cost_of_callers(server: LiveServer) -> float:
    """Let callers ask for much and read nothing; return what the server needs for them, in MiB."""
    body = json.dumps({"channel": "big", "limit": -1}).encode()
    request = b"POST /api/history HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: the key\r\ncontent-length: %d\r\n\r\n%b"
    before, worst, sockets = resident(server), 0.0, []
    for _ in range(GREEDY):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", httpx.URL(server.url).port or 80))
        client.sendall((request % (len(body), body)) * 16)
        sockets.append(client)
    for _ in range(30):
        assert server.get("/healthz").status_code == 200
        worst = max(worst, resident(server))
        threading.Event().wait(0.05)
    for client in sockets:
        client.close()
    return worst - before
