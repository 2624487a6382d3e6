"""A FastAPI route that streams a channel: `curl -N` with Last-Event-ID, over workers, over a killed one, to the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from faults.serving import store
from requirements import require

from .serving import Server, until

APP = Path(__file__).with_name("listening_app.py")


class Curl:
    """`curl -N`, which is started again with the last id as long as the server ends its stream."""

    def __init__(self, url: str, before: str = "") -> None:
        self.got: list[int] = []
        self.last_id = before
        self.streams = 0
        self._url = url
        self._process: subprocess.Popen[str] | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            header = ("-H", f"Last-Event-ID: {self.last_id}") if self.last_id else ()
            command = ["curl", "-sN", "--max-time", "60", *header, self._url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as self._process:
                self.streams += 1
                assert self._process.stdout is not None
                self._read(self._process.stdout)

    def _read(self, lines: Iterator[str]) -> None:
        data = ""
        for line in lines:
            name, _, value = line.strip().partition(": ")
            if name == "data":
                data = value
            elif name == "id":
                self.last_id = value
            elif not name and data:
                self.got.append(json.loads(data)["n"])
                data = ""

    def end(self) -> None:
        self._is_over = True
        while self._thread.is_alive():
            if self._process is not None:
                self._process.kill()
            self._thread.join(0.1)


@contextlib.contextmanager
def serving(folder: Path, url: str, workers: int) -> Iterator[Server]:
    require(shutil.which("curl"), "apt-get install curl")
    folder.mkdir(exist_ok=True)
    with Server(folder, app=APP, workers=workers, environment={"STORE": url}).running() as server:
        yield server


def publish(server: Server, numbers: range) -> None:
    """Publish numbers, each as often as it takes."""
    for n in numbers:
        until(lambda n=n: _is_published(server, n), what=f"{n} is published")  # type: ignore[misc]


def _is_published(server: Server, n: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return server.http.post("/news", params={"n": n}).status_code == 200
    return False


STORES = ["sqlite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("redis", "postgres", "nats"))]


@pytest.mark.parametrize("name", STORES)
def test_streams_are_exact_over_a_killed_worker(tmp_path: Path, name: str) -> None:
    with store(name, tmp_path) as used, serving(tmp_path / "run", used.url, 2) as server:
        publish(server, range(1))
        readers = [Curl(f"http://127.0.0.1:{server.port}/news") for _ in range(4)]
        try:
            until(lambda: all(reader.got for reader in readers), 20, what="all streams have begun")
            for turn, pid in enumerate(server.worker_pids()):  # one after the other: each reader loses its worker once
                publish(server, range(turn * 100 + 1, turn * 100 + 51))
                os.kill(pid, signal.SIGKILL)
                publish(server, range(turn * 100 + 51, turn * 100 + 101))
                until(lambda pid=pid: len(set(server.worker_pids()) - {pid}) == 2, 20, what="a worker takes its place")  # type: ignore[misc]
            publish(server, range(201, 300))
            until(lambda: all(len(reader.got) >= 300 for reader in readers), 40, what="all have everything")
            assert [reader.got for reader in readers] == [list(range(300))] * 4
            assert all(reader.streams > 1 for reader in readers)
        finally:
            for reader in readers:
                reader.end()


def test_a_stream_ends_with_its_client_and_with_its_server(tmp_path: Path) -> None:
    with serving(tmp_path / "run", "memory://", 1) as server:
        publish(server, range(1))
        first, second = (Curl(f"http://127.0.0.1:{server.port}/news") for _ in range(2))
        try:
            until(lambda: first.got and second.got, 20, what="both streams have begun")
            assert server.http.get("/worker").json()["readers"] == 2
            first.end()
            until(lambda: server.http.get("/worker").json()["readers"] == 1, what="its listener has gone")
            server.stop()  # fails where a stream keeps the server from ending
        finally:
            first.end()
            second.end()
