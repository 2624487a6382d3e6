"""The load generator counts what comes, and notices what does not: against a small server that can be told to err."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.load import Figures, GeneratorError, compile_generator, run_generator
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from requirements import require


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    require(shutil.which("cc"), "apt-get install gcc libc6-dev")


Fault = Callable[[int, str], list[str]]


def faithful(number: int, text: str) -> list[str]:
    return [text]


def measure(fault: Fault = faithful, **options: Any) -> Figures:
    """Run the generator against a server that broadcasts `fault(number, text)` for each text to each member."""

    async def run() -> Figures:
        members: set[ServerConnection] = set()
        received = 0

        async def handle(connection: ServerConnection) -> None:
            nonlocal received
            members.add(connection)
            try:
                async for text in connection:
                    received += 1
                    assert isinstance(text, str)
                    for member in tuple(members):
                        for sent in fault(received, text) if member is not connection else [text]:
                            await member.send(sent)
            except ConnectionClosed:
                pass
            finally:
                members.discard(connection)

        async with serve(handle, "127.0.0.1", 0, compression=None) as server:
            port = server.sockets[0].getsockname()[1]
            arguments = {"port": port, "path": "/", "subscribers": 5, "warmup": 0.1, "window": 0.4, "drain": 1}
            arguments |= {name.replace("_", "-"): value for name, value in options.items()}
            return await asyncio.to_thread(run_generator, arguments, limit=20, core=0)

    return asyncio.run(run())


def test_counts_every_delivery_of_a_faithful_server() -> None:
    figures = measure(in_flight=4, publishers=2)
    assert figures.complete
    assert figures.published > 10
    assert figures.deliveries == pytest.approx(5 * figures.published, rel=0.2)
    assert figures.latency.count == figures.deliveries
    assert figures.last.count == figures.completed
    assert 0 < figures.latency.p50_ms <= figures.latency.p99_ms <= figures.latency.max_ms


def test_keeps_the_pace_it_is_asked_for() -> None:
    figures = measure(mode="paced", rate=50, window=1)
    assert figures.complete
    assert 45 <= figures.published <= 55
    assert figures.rate == pytest.approx(250, rel=0.15)


def test_notices_a_lost_message() -> None:
    figures = measure(lambda number, text: [] if number == 20 else [text], mode="paced", rate=100)
    assert figures.lost == 4
    assert not figures.complete


def test_notices_a_message_that_came_twice() -> None:
    figures = measure(lambda number, text: [text, text] if number == 20 else [text], mode="paced", rate=100)
    assert figures.reordered == 4
    assert figures.lost == 0


def test_notices_messages_in_the_wrong_order() -> None:
    held: dict[int, str] = {}

    def swap(number: int, text: str) -> list[str]:
        if number == 20:
            held[0] = text
            return []
        return [text, held[0]] if number == 21 else [text]

    figures = measure(swap, mode="paced", rate=100)
    assert (figures.lost, figures.reordered) == (4, 4)


def test_notices_what_has_not_come_at_the_end() -> None:
    last: list[str] = []

    def forget_the_newest(number: int, text: str) -> list[str]:
        last.append(text)
        return [last[-2]] if len(last) > 8 and number % 4 == 0 else []

    with pytest.raises(GeneratorError, match="no message reached all subscribers"):
        measure(forget_the_newest, limit=1)


def test_frozen_subscribers_are_not_waited_for() -> None:
    figures = measure(frozen=2, in_flight=2)
    assert figures.complete
    assert figures.deliveries == pytest.approx(3 * figures.published, rel=0.2)


def test_opens_and_holds_idle_connections() -> None:
    figures = measure(mode="idle", hold=0.1, subscribers=20)
    assert figures.connections == 20
    assert figures.deliveries == 0
    assert figures.connect_seconds > 0


def test_says_what_is_wrong_when_nobody_listens() -> None:
    with pytest.raises(GeneratorError, match=r"cannot connect to 127\.0\.0\.1:1"):
        run_generator({"port": 1, "path": "/"}, limit=10)


def test_is_compiled_once(tmp_path: Path) -> None:
    first = compile_generator(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert compile_generator(tmp_path).stat().st_mtime_ns == stamp
