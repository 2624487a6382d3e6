"""Replies of the chat where rooms and inboxes hold much: all of it, in pages, which cost little while nobody reads."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from server.live_server import LiveServer, wait_for
from sessions.test_reply_memory import resident

pytestmark = pytest.mark.xdist_group("reply-memory")

CONFIG = """
[limits]
stalled_seconds = 5
rate = 10000
burst = 10000
"""
MESSAGES, SIZE = 100, 60_000
#: Clients that read nothing, and what each of them may cost, in MiB.
GREEDY, EACH = 20, 5


class Room:
    """A server whose lobby, and whose inbox of ann, hold six megabytes each."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.ann, self.ben = self._account("ann"), self._account("ben")
        with self.open(self.ben) as ben:
            for number in range(MESSAGES):
                text = f"{number} ".ljust(SIZE, "x")
                ben.send(json.dumps({"type": "chat", "message": text, "id": number}))
                kept = {"type": "private_chat", "target_user": "ann", "message": text, "id": number, "keep": True}
                ben.send(json.dumps(kept))
                answers = {"chat_message", "system"}
                while answers:
                    answers.discard(json.loads(ben.recv(timeout=10))["type"])

    def _account(self, name: str) -> str:
        answer = self.server.post("/signup", json={"username": name, "password": "correct horse 77"})
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    @contextmanager
    def open(self, token: str, query: str = "", *, reads: bool = True) -> Iterator[ClientConnection]:
        sock = socket.create_connection(("127.0.0.1", int(self.server.url.rpartition(":")[2])))
        if not reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        options: dict[str, Any] = {"proxy": None, "compression": None, "ping_interval": None, "max_size": None}
        options |= {"sock": sock, "close_timeout": 0.1, "max_queue": None if reads else 1}
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.server.websocket_url}/ws/auth{query}"
        with connect(url, additional_headers=headers, **options) as client:
            yield client


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("chat")
    (folder / "tidewire.toml").write_text(CONFIG)
    with LiveServer(folder) as server:
        yield Room(server)


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [int(message["content"].split()[0]) for message in messages]


def test_a_client_that_joins_is_given_the_newest_in_order(room: Room) -> None:
    with room.open(room.ann) as client:
        said = json.loads(client.recv(timeout=10))["messages"]
        assert len(said) < MESSAGES
        while len(said) < MESSAGES:
            message = json.loads(client.recv(timeout=10))
            assert message["type"] == "chat_message"
            said.append(message)
        assert numbers(said) == list(range(MESSAGES))
        before = {"type": "earlier", "before": said[-1]["offset"] + 1, "epoch": _epoch(room)}
        client.send(json.dumps(before))
        while (earlier := json.loads(client.recv(timeout=10)))["type"] != "earlier":
            pass
        assert earlier["more"] is True
        assert numbers(earlier["messages"]) == list(range(MESSAGES))[-len(earlier["messages"]) :]


def _epoch(room: Room) -> str:
    with room.open(room.ann) as client:
        epoch: str = json.loads(client.recv(timeout=10))["epoch"]
        return epoch


@pytest.mark.parametrize("since", [None, 40])
def test_an_inbox_comes_whole_in_pages(room: Room, since: int | None) -> None:
    with room.open(room.ann, "?inbox=") as client:
        pages = list(_inbox(client))
    if since is not None:
        with room.open(room.ann, f"?inbox={since}&inbox_epoch={pages[0]['epoch']}") as client:
            pages = list(_inbox(client))
    assert [page.get("recovered") for page in pages] == [since and True] * len(pages)
    assert [page.get("more", False) for page in pages] == [True] * (len(pages) - 1) + [False]
    messages = [message for page in pages for message in page["messages"]]
    assert numbers(messages) == list(range(since or 0, MESSAGES))
    assert pages[-1]["offset"] == messages[-1]["offset"] == MESSAGES


def _inbox(client: ClientConnection) -> Iterator[dict[str, Any]]:
    is_last = False
    while not is_last:
        message = json.loads(client.recv(timeout=10))
        if message["type"] == "inbox":
            is_last = not message.get("more", False)
            yield message


@pytest.mark.parametrize("what", ["join", pytest.param("inbox", marks=pytest.mark.slow), "earlier"])
def test_clients_that_read_nothing_cost_little(room: Room, what: str) -> None:
    again = [{"type": "leave", "room": "lobby"}, {"type": "join", "room": "lobby"}]
    asked = [{"type": "earlier", "before": 10**6}] if what == "earlier" else again
    with ExitStack() as stack:
        before, worst, end = resident(room.server), 0.0, time.monotonic() + 3
        for _ in range(GREEDY):
            client = stack.enter_context(room.open(room.ann, "?inbox=" * (what == "inbox"), reads=False))
            for command in asked * 8:
                client.send(json.dumps(command))
        while time.monotonic() < end:
            worst = max(worst, resident(room.server) - before)
            time.sleep(0.02)
    assert worst <= GREEDY * EACH, f"{worst / GREEDY:.1f} MiB each"
    wait_for(lambda: resident(room.server) < before + GREEDY, seconds=15, what="the memory given back")
