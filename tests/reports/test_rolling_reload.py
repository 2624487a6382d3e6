"""A rolling reload: a client that has come back is there once (reports of "online twice after a deploy")."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from contract.serving import Server, until
from faults.serving import STORES, store

#: Longer than the test may take to see clients that are counted twice.
DRAIN_SECONDS = 6.0


class Returning:
    """A client that comes back as soon as its connection ends."""

    def __init__(self, url: str, ended: threading.Event) -> None:
        self._url = url
        self._ended = ended
        self.returned = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with connect(self._url) as client:
                    while not self._ended.is_set():
                        try:
                            client.recv(0.1)
                        except TimeoutError:
                            pass
            except (ConnectionClosed, OSError):
                self.returned += 1

    def join(self) -> None:
        self._thread.join(20)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_nobody_is_counted_twice_in_a_rolling_reload(tmp_path: Path, name: str) -> None:
    """Who had come back was listed twice until the old worker's end, for up to `drain_seconds`."""
    with store(name, tmp_path) as used:
        server = Server(
            tmp_path,
            app=Path(__file__).with_name("restart_app.py"),
            workers=2,
            environment={"STORE": used.url},
            limits={"drain_seconds": DRAIN_SECONDS},
        )
        with server.running(), ExitStack() as stack:
            ended = threading.Event()
            clients = [Returning(server.url(f"/ws/user{number}"), ended) for number in range(20)]
            for client in clients:
                stack.callback(client.join)
            stack.callback(ended.set)
            since: dict[str, float] = {}
            longest = 0.0

            def members() -> list[str]:
                nonlocal longest
                found = Counter(server.http.get("/members").json())
                now = time.monotonic()
                for user in tuple(since):
                    if found[user] < 2:
                        del since[user]
                for user, count in found.items():
                    if count > 1:
                        longest = max(longest, now - since.setdefault(user, now))
                return sorted(found.elements())

            everybody = sorted(f"user{number}" for number in range(20))
            until(lambda: members() == everybody, what="all are there")
            assert server.process is not None
            old = set(server.worker_pids())
            server.process.send_signal(signal.SIGHUP)
            until(lambda: members() and not old & set(server.worker_pids()), 60, what="the workers are replaced")
            until(lambda: members() == everybody, what="all are there, once")
            assert all(client.returned for client in clients)
            assert longest < DRAIN_SECONDS / 2
