"""A response without an end does not keep a server from exiting, on every ASGI server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.links.wire import wait_for

from contract.serving import free_port
from tidewire.links import server_exit, tcp_socket

APPLICATION = """
from fastapi import FastAPI
from tidewire import Hub, Limits
hub = Hub("memory://", limits=Limits(drain_seconds=0.5))
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router())
"""
CONNECT = "GET /connection/uni_sse?cf_connect=%7B%7D HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n"


def command(kind: str, port: int) -> list[str]:
    if kind == "tidewire":
        return [sys.executable, "-m", "tidewire", "run", "main:app", "--port", str(port)]
    if kind == "uvicorn":
        return [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
    if kind == "uvicorn with workers":
        return [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port), "--workers", "2"]
    if kind == "uvicorn --reload":
        return [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port), "--reload"]
    if kind == "gunicorn":
        worker = "uvicorn_worker.UvicornWorker"
        return [sys.executable, "-m", "gunicorn", "main:app", "--bind", f"127.0.0.1:{port}", "-k", worker]
    if kind == "hypercorn":
        return [sys.executable, "-m", "hypercorn", "main:app", "--bind", f"127.0.0.1:{port}"]
    return [str(Path(sys.executable).with_name("granian")), "--interface", "asgi", "--port", str(port), "main:app"]


@contextlib.contextmanager
def serving(kind: str, folder: Path, application: str = APPLICATION) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    Path(folder, "main.py").write_text(application)
    port = free_port()
    with Path(folder, "log").open("wb") as log:
        process = subprocess.Popen(command(kind, port), cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # its workers, too: one that is killed writes no figures of coverage
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def open_stream(port: int) -> socket.socket | None:
    connection = socket.socket()
    connection.settimeout(10)
    try:
        connection.connect(("127.0.0.1", port))
        connection.sendall(CONNECT.encode())
        received = b""
        while b"data:" not in received:
            data = connection.recv(65_536)
            assert data, received
            received += data
    except ConnectionError:
        connection.close()
        return None
    return connection


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *(
            (kind, number)
            for kind in ("uvicorn", "uvicorn with workers", "uvicorn --reload", "granian")
            for number in (signal.SIGTERM, signal.SIGINT)
        ),
        ("hypercorn", signal.SIGTERM),
        pytest.param("hypercorn", signal.SIGINT, marks=pytest.mark.slow),
        # a bare SIGINT to gunicorn's master alone takes 30 s with an empty application, too
        ("gunicorn", signal.SIGTERM),
    ],
)
def test_an_open_event_source_does_not_keep_a_server(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as (process, port):
        stream = wait_for(lambda: open_stream(port), 20, "the server answers")
        with stream:
            start = time.monotonic()
            process.send_signal(number)
            process.wait(30)
            assert time.monotonic() - start < 20  # hypercorn takes 6 s on a quiet machine
            while stream.recv(65_536):
                pass


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is not there")
def test_looking_for_sockets_leaves_no_descriptors_behind(tmp_path: Path) -> None:
    """Each look copied the files and pipes of the process, and their copies: after a dozen, no descriptor was left."""
    with (tmp_path / "file").open("wb"), socket.create_server(("127.0.0.1", 0)) as listener:
        before = os.listdir("/proc/self/fd")
        for look in (server_exit._listening, tcp_socket._scan) * 2:
            look()
        assert [number for number, _ in tcp_socket.sockets() if number == listener.fileno()]
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_process_that_listens_no_more_is_about_to_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of hypercorn has no signal, and waits for its clients (pgjones/hypercorn#308)."""
    listener = socket.create_server(("127.0.0.1", 0))
    own = (listener.fileno(), os.fstat(listener.fileno()).st_ino)
    if sys.platform == "linux":
        assert own in server_exit._listening()
    monkeypatch.setattr(server_exit, "_gets_no_signal", lambda: True)
    monkeypatch.setattr(server_exit, "_listening", lambda: [own])
    monkeypatch.setattr(server_exit, "_LOOK_SECONDS", 0.01)

    async def main() -> None:
        told = asyncio.Event()
        exiting = server_exit.ServerExit.of(asyncio.get_running_loop())
        exiting.watch(told.set)
        await asyncio.sleep(0.1)
        assert not told.is_set()
        listener.close()
        await asyncio.wait_for(told.wait(), 20)

    asyncio.run(main())
