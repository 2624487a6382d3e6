"""Answers of plain HTTP that nobody reads: the connection is released in time, on TCP and on Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.links.wire import request

from engine.support import run
from tidewire.limits import Limits
from tidewire.links.first_request import configured
from tidewire.links.listener import listening_socket, unix_listener
from tidewire.testing import wait_until

#: Seconds without a byte taken, and those beyond for the looks at it and for the probes of the kernel.
STALLED, SLACK = 1.0, 3.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with one large body, with parts without end, or with small ones now and then."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/large":
        await send({"type": "http.response.body", "body": bytes(8 << 20)})
        return
    size, pause = (65_536, 0.0) if scope["path"] == "/parts" else (2_048, 0.002)
    gone = asyncio.create_task(until_gone(receive))  # as a streaming response waits for it
    while not gone.done():
        await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        await asyncio.sleep(pause)


async def until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def serving(listener: socket.socket, application: Any = app) -> AsyncIterator[uvicorn.Server]:
    http = configured(Limits(stalled_seconds=STALLED))
    server = uvicorn.Server(uvicorn.Config(application, http=http, lifespan="off", log_config=None, loop="none"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await wait_until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        await task


async def released(server: uvicorn.Server, client: socket.socket, path: str) -> float:
    """Ask for an answer and read nothing of it; return the seconds until the server has let go."""
    began = time.monotonic()
    await asyncio.to_thread(client.sendall, f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    connections = server.server_state.connections
    await wait_until(lambda: bool(connections), what="the request is being answered")
    await wait_until(lambda: not connections, STALLED + SLACK + 5, what="the connection is released")
    return time.monotonic() - began


@pytest.mark.parametrize("path", ["/large", "/parts"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_answer_of_which_nothing_is_taken_is_given_up(tmp_path: Path, kind: str, path: str) -> None:
    """Also where no kernel watches: on a Unix socket, and on one of another program."""

    async def main() -> None:
        if kind == "unix":
            with unix_listener(tmp_path / "socket") as listener:
                async with serving(listener) as server:
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(str(tmp_path / "socket"))
                        assert STALLED <= await released(server, client, path) < STALLED + SLACK
            return
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with serving(listener) as server:
                with socket.create_connection(listener.getsockname()) as client:
                    assert STALLED <= await released(server, client, path) < STALLED + SLACK

    run(main())


def test_small_parts_that_wait_in_the_kernel_alone_are_given_up() -> None:
    async def main() -> None:
        with listening_socket("127.0.0.1", 0, seconds=STALLED) as listener:
            async with serving(listener) as server:
                with socket.socket() as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                    client.connect(listener.getsockname())
                    assert await released(server, client, "/small") < STALLED + SLACK

    run(main())


def test_one_who_reads_slowly_is_served() -> None:
    async def main() -> None:
        with listening_socket("127.0.0.1", 0, seconds=STALLED) as listener:
            async with serving(listener) as server:
                with socket.socket() as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                    client.connect(listener.getsockname())
                    client.sendall(b"GET /parts HTTP/1.1\r\nHost: test\r\n\r\n")
                    end = time.monotonic() + 4 * STALLED
                    while time.monotonic() < end:
                        assert await asyncio.to_thread(client.recv, 65_536)
                        await asyncio.sleep(0.05)
                    assert server.server_state.connections

    run(main())


def test_all_requests_of_a_client_learn_that_it_has_gone() -> None:
    """The one that is being answered, too, where others wait behind it: it would write to nobody, or wait for ever."""
    began, ended = [], []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await until_gone(receive)
        await send({"type": "http.response.body", "body": b"late"})
        ended.append(scope["path"])

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with serving(listener, slow) as server:
                with socket.create_connection(listener.getsockname()) as client:
                    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(3))
                    await asyncio.to_thread(client.sendall, requests)
                    await wait_until(lambda: bool(began), what="the first one is being answered")
                    (connection,) = server.server_state.connections
                    await wait_until(lambda: len(connection.pipeline) == 2, what="the others wait")
                await wait_until(lambda: bool(ended), what="it has learnt of the end")
        assert began == ended == ["/0"]

    run(main())


def test_a_handshake_behind_an_answer_that_is_not_read_is_refused() -> None:
    """Its WebSocket would not be told that the client takes nothing."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with serving(listener) as server:
                with socket.create_connection(listener.getsockname()) as client:
                    await asyncio.to_thread(client.sendall, b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
                    await wait_until(lambda: bool(server.server_state.total_requests), what="the answer is written")
                    await asyncio.to_thread(client.sendall, request("/"))
                    with client.makefile("rb") as answers:
                        received = await asyncio.to_thread(answers.read)
        assert b"HTTP/1.1 101" not in received[-4_096:]
        assert b"HTTP/1.1 400" in received[-4_096:]

    run(main())
