"""Connections are taken a few in one turn, and are taken again when there is something to take them with."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvloop

from contract.serving import Server, until
from helpers.counting import reached
from requirements import require
from server.test_run import certificate
from tidewire.limits import Limits
from tidewire.links.acceptor import Acceptor
from tidewire.support.counters import count_limit
from tidewire.support.siblings import Siblings
from tidewire.testing import wait_until

PENDING = 200


@contextlib.contextmanager
def pending(count: int) -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """Return a listener, and clients whose connections wait there."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1_024))
        port = listener.getsockname()[1]
        yield listener, [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]


class Greeter(asyncio.Protocol):
    """Says hello, and notes in which turn it was made."""

    turn = 0
    made: Counter[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made[self.turn] += 1
        transport.write(b"hello")  # type: ignore[attr-defined]
        nodelay = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert nodelay


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_hundreds_that_wait_are_taken_a_few_in_a_turn(loop: object) -> None:
    async def main(listener: socket.socket, clients: list[socket.socket]) -> None:
        Greeter.made, Greeter.turn = Counter(), 0
        acceptor = Acceptor(asyncio.get_running_loop(), listener, Greeter, Limits(arrivals=4))
        end = time.monotonic() + 10
        while Greeter.made.total() < len(clients):
            assert time.monotonic() < end, Greeter.made
            await asyncio.sleep(0)
            Greeter.turn += 1
        assert max(Greeter.made.values()) <= 8, Greeter.made
        for client in clients:
            assert client.recv(5) == b"hello"
        acceptor.close()
        await acceptor.wait_closed()
        late = socket.create_connection(listener.getsockname())
        with late:
            for _ in range(20):
                await asyncio.sleep(0)
            assert Greeter.made.total() == len(clients)

    with pending(PENDING) as (listener, clients), asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(main(listener, clients))


class Guest(asyncio.Protocol):
    """Notes that it was opened, and that it has ended."""

    open: set[Guest]
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.remove(self)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("turns", range(1, 9))
def test_a_connection_that_opens_while_the_server_stops_is_told_its_end(loop: object, turns: int) -> None:
    """The server waited 8 s for those that uvloop had closed in silence, and logged an error for each."""

    async def main(listener: socket.socket) -> None:
        Guest.open = set()
        acceptor = Acceptor(asyncio.get_running_loop(), listener, Guest, Limits(arrivals=4))
        for _ in range(turns):
            await asyncio.sleep(0)
        acceptor.close()
        await acceptor.wait_closed()
        await wait_until(lambda: not any(guest.transport.is_closing() for guest in Guest.open))
        for guest in tuple(Guest.open):
            guest.transport.write(b"still here")  # uvloop raises where it has closed the connection
            guest.transport.abort()

    with pending(40) as (listener, _), asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(main(listener))


def test_newcomers_one_after_another_leave_the_listener_watched() -> None:
    class Loop(asyncio.SelectorEventLoop):
        watched = 0

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
            self.watched += 1
            super().add_reader(fd, callback, *args)

    async def main(listener: socket.socket, loop: Loop) -> None:
        Greeter.made, Greeter.turn = Counter(), 0
        acceptor = Acceptor(loop, listener, Greeter, Limits())
        before = loop.watched
        for count in range(1, 4):
            with socket.create_connection(listener.getsockname()):
                await wait_until(lambda count=count: Greeter.made.total() == count)  # type: ignore[misc]
        assert loop.watched == before
        acceptor.close()

    with pending(0) as (listener, _), asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main(listener, runner.get_loop()))  # type: ignore[arg-type]


def test_without_descriptors_nobody_is_taken_for_a_moment() -> None:
    class Exhausted(socket.socket):
        """A listener of a process that has none left, until it is told."""

        tries = 0
        is_over = False

        def accept(self) -> tuple[socket.socket, object]:
            if self.is_over:
                return super().accept()
            self.tries += 1
            raise OSError(errno.EMFILE, "too many open files")

    async def main(listener: Exhausted) -> None:
        Greeter.made, before = Counter(), reached()["descriptors"]
        acceptor = Acceptor(asyncio.get_running_loop(), listener, Greeter, Limits())
        await wait_until(lambda: listener.tries >= 3)
        assert reached()["descriptors"] >= before + 3
        listener.is_over = True
        await wait_until(lambda: Greeter.made.total() == 2)
        acceptor.close()

    with pending(2) as (plain, _), Exhausted(fileno=plain.detach()) as listener:
        asyncio.run(main(listener))


def test_a_server_with_too_few_descriptors_goes_on_and_takes_others_later(tmp_path: Path) -> None:
    require(shutil.which("prlimit"), "apt-get install util-linux")
    limits = {"header_seconds": 2.0}
    with Server(tmp_path, broker="memory://", limits=limits, prefix=("prlimit", "--nofile=64")).running() as server:
        opened = [socket.create_connection((server.host, server.port)) for _ in range(120)]
        try:
            until(lambda: "ulimit -n" in server.log(), what="it is said in the log")
        finally:
            for one in opened:
                one.close()
        until(lambda: server.http.get("/healthz").status_code == 200, what="the server answers again")


@pytest.mark.parametrize("is_dripped", [False, True])
def test_a_slow_tls_handshake_ends_in_the_time_of_the_headers(tmp_path: Path, is_dripped: bool) -> None:
    certificate(tmp_path)
    tls = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    server = Server(tmp_path, *tls, broker="memory://", limits={"header_seconds": 1.0})
    server.http = httpx.Client(base_url=f"https://{server.host}:{server.port}", verify=False)
    with server.running():
        with socket.create_connection((server.host, server.port)) as slow:
            began = time.monotonic()
            hello, answer = iter(client_hello()), None
            slow.settimeout(0.05)
            while answer is None and time.monotonic() - began < 10:
                with contextlib.suppress(TimeoutError):
                    answer = slow.recv(1)
                with contextlib.suppress(OSError):
                    slow.sendall(bytes([next(hello)]) if is_dripped else b"")
            assert answer == b""
            assert time.monotonic() - began < 8
        assert server.http.get("/healthz").status_code == 200
        assert "Traceback" not in server.log()


def client_hello() -> bytes:
    """Return the first bytes of a client of TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(("host", "is_told"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_browsers_come_back_by_tls_alone(tmp_path: Path, host: str, is_told: bool) -> None:
    certificate(tmp_path)
    tls = ("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--host", host)
    server = Server(tmp_path, *tls, broker="memory://")
    server.http = httpx.Client(base_url=f"https://127.0.0.1:{server.port}", verify=False)
    with server.running():
        answer = server.http.get("/healthz")
        assert ("strict-transport-security" in answer.headers) is is_told


class Contested(socket.socket):
    """A listener at which another process is first, so many times."""

    losses = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.losses:
            self.losses -= 1
            raise BlockingIOError(errno.EAGAIN, "another process was first")
        return super().accept()


@pytest.mark.parametrize(("losses", "watched_anew"), [(0, 0), (1, 1), (3, 3)])
def test_a_worker_that_was_too_late_is_woken_first_the_next_time(
    losses: int, watched_anew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system wakes the process first that has begun to watch last: without this, one worker gets nearly all."""
    anew = Counter[str]()
    unwatch = Acceptor._unwatch

    def counted(acceptor: Acceptor) -> None:
        anew["unwatched"] += 1
        unwatch(acceptor)

    async def main(listener: socket.socket) -> None:
        Greeter.made = Counter()
        acceptor = Acceptor(asyncio.get_running_loop(), listener, Greeter, Limits())
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            await asyncio.to_thread(client.recv, 5)
            await wait_until(lambda: Greeter.made.total() == 1, what="it is accepted")
            assert anew["unwatched"] == watched_anew
        acceptor.close()

    monkeypatch.setattr(Acceptor, "_unwatch", counted)
    with Contested() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.losses = losses
        uvloop.run(main(listener))


def test_a_worker_without_room_lets_the_others_be_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they take newcomers in turn, every second one would be refused by a full worker beside an empty one."""
    monkeypatch.setattr("tidewire.links.acceptor._HEAD_START", 0.2)

    async def main(listener: socket.socket) -> None:
        Greeter.made = Counter()
        loop = asyncio.get_running_loop()
        Siblings.of(loop).workers = 2
        acceptor = Acceptor(loop, listener, Greeter, Limits())
        count_limit("connections")
        with socket.create_connection(listener.getsockname()):  # the other worker has room for this one
            await asyncio.sleep(0.02)
            listener.accept()[0].close()
        with socket.create_connection(listener.getsockname(), timeout=10) as client:  # and none for this one
            assert await asyncio.to_thread(client.recv, 5) == b"hello"
        assert Greeter.made.total() == 1
        acceptor.close()

    with pending(0) as (listener, _):
        uvloop.run(main(listener))
