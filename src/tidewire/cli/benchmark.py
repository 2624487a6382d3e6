"""The measurements of `tidewire bench`: publishing by the configured broker, and fan-out from one server process.

A look at one machine in ten seconds; `make bench` in the source tree is the thorough one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI, WebSocket

from tidewire.backends import open_backend, sqlite_path
from tidewire.backends.base import Broker
from tidewire.channel_options import ChannelOptions
from tidewire.errors import TidewireError
from tidewire.hub import Hub
from tidewire.messages import PublishRequest
from tidewire.server.settings import Settings, clean_environment

__all__ = ("application", "fan_out", "publishing")

_SECONDS, _TASKS = 3.0, 100
_SUBSCRIBERS, _BURST = 100, 100
_MESSAGE = "x" * 120
#: A text of less than 126 bytes has a header of two bytes (RFC 6455 section 5.2).
_FRAME = len(_MESSAGE) + 2
_CHANNEL = "bench"

_hub = Hub("memory://", default=ChannelOptions(history_size=0))
#: The server for the fan-out measurement: it publishes a burst for each message of a client.
application: FastAPI = FastAPI(lifespan=_hub.lifespan)


@application.websocket("/")
async def _bursts(websocket: WebSocket) -> None:
    async with _hub.connect(websocket) as connection:
        await connection.subscribe(_CHANNEL)
        await connection.send_text("ready".ljust(len(_MESSAGE)))
        async for _ in connection.iter_text():
            await asyncio.gather(*[_hub.publish(_CHANNEL, _MESSAGE) for _ in range(_BURST)])


def publishing(settings: Settings) -> Iterator[str]:
    """Yield the result for one publisher that waits for each publish, and for many at once."""
    with tempfile.TemporaryDirectory(prefix=".tidewire-bench-", dir=_folder(settings)) as folder:
        url = settings.broker
        if url.startswith("sqlite:"):
            # The same disk, but a file of its own.
            url = f"sqlite:///{Path(folder).resolve() / 'bench.db'}"
        yield asyncio.run(_publish(url, settings, 1))
        yield asyncio.run(_publish(url, settings, _TASKS))


def _folder(settings: Settings) -> Path:
    if settings.broker.startswith("sqlite:"):
        return sqlite_path(settings.broker).resolve().parent
    return Path(tempfile.gettempdir())


async def _publish(url: str, settings: Settings, tasks: int) -> str:
    broker, _ = open_backend(url, settings.limits)
    await broker.start(lambda _: None)
    channel = f"bench:{secrets.token_hex(4)}"
    try:
        begin = time.perf_counter()
        waits = await asyncio.gather(*[_publish_for(broker, channel, begin + _SECONDS) for _ in range(tasks)])
        seconds = time.perf_counter() - begin
        await broker.remove_history(channel)
    finally:
        await broker.aclose()
    times = sorted(wait for some in waits for wait in some)
    middle, late = statistics.median(times), times[int(len(times) * 0.99)]
    who = f"{tasks} publisher{'s' if tasks > 1 else ' '}"
    return (
        f"  {who:14} {len(times) / seconds:>10,.0f} publishes/s, median {middle * 1e3:.2f} ms, "
        f"99 % within {late * 1e3:.2f} ms ({broker.kept})"
    )


async def _publish_for(broker: Broker, channel: str, end: float) -> list[float]:
    waits = []
    while (before := time.perf_counter()) < end:
        await broker.publish(PublishRequest(channel, _MESSAGE.encode()))
        waits.append(time.perf_counter() - before)
    return waits


def fan_out(settings: Settings) -> str:
    """Return the measured deliveries a second to this process from a server in another one."""
    return asyncio.run(_fan_out())


async def _fan_out() -> str:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "tidewire", "run", f"{__name__}:application"),
        *("--host", "127.0.0.1", "--port", "0", "--workers", "1", "--log-level", "warning"),
        stdout=asyncio.subprocess.PIPE,
        cwd=tempfile.gettempdir(),
        env=clean_environment(),
    )
    try:
        async with asyncio.timeout(30):
            assert server.stdout is not None
            found = re.search(rb"http://127\.0\.0\.1:(\d+)", await server.stdout.readline())
            if found is None:
                raise TidewireError("the server to be measured did not start; `tidewire run` says why")
            return await _measure(int(found[1]))
    except TimeoutError:
        raise TidewireError("the fan-out did not end within 30 s; is this machine busy with something else?") from None
    finally:
        if server.returncode is None:
            server.terminate()
            await server.wait()


async def _measure(port: int) -> str:
    meter = _Meter()
    loop = asyncio.get_running_loop()
    clients = [await loop.create_connection(lambda: _Client(meter), "127.0.0.1", port) for _ in range(_SUBSCRIBERS)]
    await meter.wait_frames(_SUBSCRIBERS)
    begin, bursts = time.perf_counter(), 0
    while time.perf_counter() - begin < _SECONDS:
        # A different client each time, because the rate of one client is limited.
        clients[bursts % _SUBSCRIBERS][1].burst()
        bursts += 1
        await meter.wait_frames(_SUBSCRIBERS * (1 + bursts * _BURST))
    seconds = time.perf_counter() - begin
    for transport, _ in clients:
        transport.abort()
    rate = bursts * _BURST * _SUBSCRIBERS / seconds
    return (
        f"  {_SUBSCRIBERS} subscribers {rate:>11,.0f} deliveries/s counted by this process: "
        f"messages of {len(_MESSAGE)} bytes in bursts of {_BURST}"
    )


class _Meter:
    """Counts the bytes of all clients."""

    def __init__(self) -> None:
        self._bytes = self._wanted = 0
        self._reached = asyncio.Event()

    def add(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= self._wanted:
            self._reached.set()

    async def wait_frames(self, count: int) -> None:
        self._wanted = count * _FRAME
        if self._bytes < self._wanted:
            self._reached.clear()
            await self._reached.wait()


class _Client(asyncio.Protocol):
    """A WebSocket client that only counts."""

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter
        self._answer: bytearray | None = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer += data
            _, end, data = bytes(self._answer).partition(b"\r\n\r\n")
            if not end:
                return
            self._answer = None
        self._meter.add(len(data))

    def burst(self) -> None:
        # One masked text frame, "x", whose mask is zero.
        self._transport.write(b"\x81\x81\x00\x00\x00\x00x")
