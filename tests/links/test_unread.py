"""The watch over what peers have not taken: one that takes some is left alone, one that takes nothing is cut."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.support import run
from helpers.counting import reached
from tidewire.limits import Limits
from tidewire.links.tcp_socket import acknowledged_by, unsent_by
from tidewire.links.unread import UnreadWatch
from tidewire.support.timer_wheel import TimerWheel
from tidewire.testing import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what a peer has taken")

SECONDS = 10.0


@asynccontextmanager
async def connected(listener: socket.socket, client: socket.socket) -> AsyncIterator[asyncio.Transport]:
    """Give the server's side of a connection whose client reads nothing by itself."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect(listener.getsockname())
    accepted, _ = listener.accept()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, accepted)
    try:
        yield transport
    finally:
        transport.abort()


def test_who_takes_some_is_left_alone_and_who_takes_nothing_is_cut() -> None:
    async def main() -> None:
        before = reached()["stalled_seconds"]
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            async with connected(listener, client) as transport:
                watch = UnreadWatch(transport, Limits(stalled_seconds=SECONDS))
                assert watch.on_timer(1.0) == 3.0, "nothing waits"
                transport.write(bytes(60_000))
                assert watch.on_timer(2.0) == 1.0
                moments = itertools.count(2.0, 1.5 * SECONDS)
                for _ in range(3):  # it takes some each time: the kernel's clock would have run on
                    taken = acknowledged_by(transport)
                    while acknowledged_by(transport) == taken:
                        await asyncio.to_thread(client.recv, 2_048)
                    assert unsent_by(transport)
                    assert watch.on_timer(next(moments)) == 1.0
                # what the kernel had announced may still come, and counts
                looks = 1
                while watch.on_timer(next(moments)) is not None:
                    looks += 1
                assert looks <= 5
                assert transport.is_closing()
        assert reached()["stalled_seconds"] == before + 1

    run(main())


def test_a_transport_with_a_watch_of_its_own_is_cut_later() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            async with connected(listener, client) as transport:
                watch = UnreadWatch(transport, Limits(stalled_seconds=SECONDS))
                transport.write(bytes(32 << 20))
                assert transport.get_write_buffer_size() > 65_536
                taken: int | None = -1
                while taken != acknowledged_by(transport):  # until all buffers are full
                    taken = acknowledged_by(transport)
                    await asyncio.sleep(0.3)
                assert watch.on_timer(100.0) == 1.0
                assert watch.on_timer(100.0 + 1.2 * SECONDS) == 1.0
                assert None in (watch.on_timer(100.0 + factor * SECONDS) for factor in (1.3, 2.8, 4.3))

    run(main())


def test_a_connection_is_watched_from_its_beginning(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            async with connected(listener, client) as transport:
                UnreadWatch.begin(transport, loop, Limits(stalled_seconds=0.5))
                transport.write(bytes(60_000))
                await wait_until(transport.is_closing, what="it is cut")
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(str(tmp_path / "a"))
            listener.listen()
            slots = TimerWheel.of(loop)._slots
            await wait_until(lambda: not slots, what="the watch has ended with its connection")
            async with connected(listener, client) as transport:
                UnreadWatch.begin(transport, loop, Limits(stalled_seconds=0.5))
                assert not slots, "no kernel tells what was taken here"

    run(main())
