"""The writer of frames, on a transport that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from tidewire.links.writer import Writer
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch
from tidewire.testing import wait_until

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.closing = False
        self.socket: socket.socket | None = None
        self.sslcontext: object = None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert high > low

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> object:
        return getattr(self, name)

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)


def make() -> tuple[Writer, Transport]:
    transport = Transport()
    return Writer(cast(asyncio.Transport, transport), asyncio.new_event_loop()), transport


def batch(*texts: bytes) -> Batch:
    return Batch([WireMessage(text) for text in texts])


def test_a_held_answer_goes_out_in_front_of_what_is_written_next() -> None:
    writer, transport = make()
    writer.hold_answer(ANSWER)
    writer.write(batch(b"one").joined, 1)
    writer.write(batch(b"two").joined, 1)
    writer.release_answer()
    assert transport.written == [ANSWER + b"\x81\x03one", b"\x81\x03two"]


def test_a_held_answer_goes_out_alone_and_before_a_frame() -> None:
    writer, transport = make()
    writer.hold_answer(ANSWER)
    writer.release_answer()
    writer.hold_answer(ANSWER)
    writer.write_frame(b"\x89\x00")
    assert transport.written == [ANSWER, ANSWER + b"\x89\x00"]


def test_the_backlog_counts_messages_since_the_pause() -> None:
    writer, transport = make()
    writer.write(batch(b"before").joined, 1)
    transport.unsent = 70_000
    assert writer.backlog() == (70_000, 0)
    writer.pause(1.0)
    assert writer.is_paused
    writer.write(batch(b"one", b"two").joined, 2)
    assert writer.backlog() == (70_000, 2)
    writer.resume()
    assert not writer.is_paused
    assert writer.backlog() == (70_000, 0)


def test_a_client_that_takes_from_the_kernel_alone_does_not_stall() -> None:
    """A kernel asks for more only when a third of its buffer, which may be megabytes, is free."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.connect(listener.getsockname())
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, listener.accept()[0])
            writer = Writer(transport, loop)
            writer.write(bytes(16 << 20), 1)
            left = transport.get_write_buffer_size()
            assert left
            writer.pause(0.0)
            moments = itertools.count(1)
            await wait_until(lambda: writer.stalled_seconds(next(moments)) >= 5, what="all buffers are full")
            client.recv(65_536, socket.MSG_WAITALL)
            await wait_until(lambda: writer.stalled_seconds(next(moments)) == 0, what="the client has taken some")
            assert transport.get_write_buffer_size() == left
            transport.abort()

    asyncio.run(main())


def test_a_client_stalls_when_it_takes_nothing_whatever_is_written_to_it() -> None:
    writer, transport = make()
    transport.unsent = 70_000
    writer.pause(10.0)
    writer.write(batch(b"x" * 98).joined, 1)
    transport.unsent += 100
    assert writer.stalled_seconds(13.0) == 3.0
    writer.write(batch(b"x" * 98).joined, 1)
    transport.unsent += 99
    assert writer.stalled_seconds(15.0) == 0.0
    assert writer.stalled_seconds(16.0) == 1.0


def test_nothing_is_written_to_a_closing_transport() -> None:
    writer, transport = make()
    transport.closing = True
    writer.write_frame(b"\x88\x00")
    writer.hold_answer(ANSWER)
    writer.release_answer()
    assert transport.written == []


def test_waiting_ends_with_the_pause() -> None:
    async def main() -> None:
        writer, _ = make()
        writer.pause(0.0)
        waiting = [asyncio.create_task(writer.wait_writable()) for _ in range(2)]
        await asyncio.sleep(0)
        writer.resume()
        async with asyncio.timeout(20):
            await asyncio.gather(*waiting)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells")
def test_a_client_that_takes_bytes_of_which_the_transport_does_not_know_is_not_stalled() -> None:
    """Below TLS so many wait between TLS and the socket that what the transport counts stays as it is for long."""
    writer, transport = make()
    with connected(transport) as (server, client):
        fill(server)
        wait_acknowledged(server)
        writer.pause(0.0)
        assert writer.stalled_seconds(9.0) == 9.0
        client.recv(1_048_576, socket.MSG_WAITALL)
        wait_acknowledged(server)
        transport.unsent = 16_777_216  # there is not less to send than before
        assert writer.stalled_seconds(10.0) == 0.0
        assert writer.stalled_seconds(12.0) == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells")
def test_bytes_ahead_move_until_the_client_has_taken_those_and_not_what_comes_behind() -> None:
    writer, transport = make()
    with connected(transport) as (server, client):
        assert writer.bytes_ahead() is None
        left = fill(server)
        wait_acknowledged(server)
        one, other = writer.bytes_ahead(), writer.bytes_ahead()
        assert one is not None
        assert other is not None
        assert not one.have_moved(), "nothing is taken"
        left -= len(client.recv(1_048_576, socket.MSG_WAITALL))
        wait_acknowledged(server)
        assert one.have_moved()
        assert not one.have_moved()
        assert other.have_moved(), "another judge has looks of its own"
        behind = fill(server)
        left -= len(client.recv(left, socket.MSG_WAITALL))
        wait_acknowledged(server)
        assert one.have_moved()
        assert one.are_taken
        client.recv(behind // 2, socket.MSG_WAITALL)
        wait_acknowledged(server)
        assert not one.have_moved(), "what came behind does not count"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells")
def test_below_tls_bytes_ahead_are_taken_when_the_kernel_has_room_again() -> None:
    """So many wait between TLS and the socket that no transport counts."""
    writer, transport = make()
    transport.sslcontext = object()
    with connected(transport) as (server, client):
        first = fill(server)
        ahead = writer.bytes_ahead()
        assert ahead is not None
        taken = hidden = 0
        while hidden < 1_048_576:
            taken += len(client.recv(65_536))
            hidden += fill(server)
        while not ahead.are_taken:
            taken += len(client.recv(65_536))
            wait_acknowledged(server)
            ahead.have_moved()
        assert taken > first + hidden // 2


@contextlib.contextmanager
def connected(transport: Transport) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give the transport a socket; yield it, and that of a client with a small buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect(listener.getsockname())
        transport.socket, _ = listener.accept()
        with transport.socket as server:
            server.setblocking(False)
            yield server, client


def fill(server: socket.socket) -> int:
    """Write until the kernel takes no more; return the bytes."""
    written = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            written += server.send(bytes(65_536))
    return written


def wait_acknowledged(server: socket.socket) -> None:
    """Wait until no byte is on its way: the client's side has acknowledged what it had room for."""
    until(lambda: not struct.unpack_from("I", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# The direct sends of one turn of the loop are joined.


def test_what_is_written_later_is_joined_and_written_at_the_end_of_the_turn() -> None:
    async def main() -> None:
        transport = Transport()
        writer = Writer(cast(asyncio.Transport, transport), asyncio.get_running_loop())
        writer.write_later(b"a", 1)
        writer.write_later(b"b", 1)
        assert (transport.written, writer.backlog()) == ([], (2, 0))
        await asyncio.sleep(0)
        assert (transport.written, writer.backlog()) == ([b"ab"], (0, 0))

    asyncio.run(main())


def test_other_writes_of_the_turn_come_behind_what_waits() -> None:
    async def main() -> None:
        transport = Transport()
        writer = Writer(cast(asyncio.Transport, transport), asyncio.get_running_loop())
        writer.write_later(b"reply ", 1)
        writer.write(batch(b"push").joined, 1)
        assert transport.written == [b"reply " + batch(b"push").joined]
        writer.write_later(b"last word", 1)
        writer.write_frame(b"close")
        assert transport.written[1:] == [b"last word", b"close"]
        writer.write_later(b"x" * 65_537, 1)
        assert len(transport.written) == 4, "more than the high-water mark does not wait"
        transport.closing = True
        writer.write_later(b"too late", 1)
        await asyncio.sleep(0)
        assert len(transport.written) == 4

    asyncio.run(main())


def test_it_is_direct_only_while_nothing_waits_and_nobody_watches() -> None:
    writer, transport = make()
    assert writer.is_direct
    writer.hold_answer(ANSWER)
    assert not writer.is_direct
    writer.release_answer()
    assert writer.is_direct
    writer.write_later(b"x", 1)
    assert not writer.is_direct
    writer.pause(0.0)
    writer.flush()
    assert not writer.is_direct
    writer.resume()
    assert writer.is_direct
    assert transport.written == [ANSWER, b"x"]
