"""Clients that vanish in the middle of subscribing, publishing, recovering and joining leave nothing behind."""

from __future__ import annotations

import random
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contract.serving import Server, until
from helpers.stores import Daemon, start_redis

APP = Path(__file__).with_name("census_app.py")
#: Ends a connection with a reset: nothing of what was sent has to arrive.
_RESET = struct.pack("ii", 1, 0)


@pytest.mark.parametrize("clients", [200, pytest.param(2_000, marks=pytest.mark.slow)])
def test_clients_that_vanish_leave_nothing(tmp_path: Path, clients: int) -> None:
    seed = random.randrange(2**32)
    (tmp_path / "run").mkdir()
    with start_redis(tmp_path / "redis") as store:
        environment = {"STORE": f"redis://127.0.0.1:{store.port}"}
        with Server(tmp_path / "run", app=APP, environment=environment).running() as server:
            _vanish(server, 0, seed)
            before = _settled(server)
            with ThreadPoolExecutor(10) as threads:
                running = [threads.submit(_vanish, server, number, seed + number) for number in range(clients)]
                _hang(store)
                for future in running:
                    future.result()
            until(lambda: _is_clean(_settled(server), before), 30, what=f"as before: {before} (seed {seed})")


def _hang(store: Daemon) -> None:
    """Let the store hang twice, so that commands are under way for long while their clients vanish."""
    for _ in range(2):
        time.sleep(0.3)
        store.freeze()
        time.sleep(1.0)
        store.thaw()


def _vanish(server: Server, number: int, seed: int) -> None:
    """Come, ask for something, and vanish at some moment of it."""
    chance = random.Random(seed)
    since = f"?since={chance.randrange(50)}&epoch=x" if chance.random() < 0.5 else ""
    head = f"GET /ws/user{number % 50}{since} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    head += "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head.encode())
        if chance.random() < 0.7:
            client.sendall(b"\x81\x82\0\0\0\0hi" * chance.randrange(1, 5))
        time.sleep(chance.choice((0.0, chance.uniform(0, 0.01), chance.uniform(0, 0.3))))
        if chance.random() < 0.8:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _settled(server: Server) -> dict[str, Any]:
    answer = server.http.get("/census")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def _is_clean(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Nothing of clients is left; the store's own connections may be others than before."""
    if not now or any(now[name] for name in ("connections", "users", "addresses", "channels", "members")):
        return False
    return now["tasks"] <= before["tasks"] + 2 and now["files"] <= before["files"] + 4
