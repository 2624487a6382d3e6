"""Newcomers begin a few at a time, in their order, whatever comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from tests.links.wire import request, serving, wait_for
from uvicorn.server import ServerState

from helpers.counting import reached
from tidewire.limits import Limits
from tidewire.links.first_request import configured
from tidewire.support import admission as admission_module
from tidewire.support.admission import Admission
from tidewire.testing import wait_until


def started_in_turns(count: int, limit: int, allowed: int, *, beside_publish: bool = False) -> list[int]:
    """Ask for so many steps at once; return how many started in each turn, after seeing that they kept their order."""
    begun: list[int] = []

    async def main() -> list[int]:
        gate, before, turns = Admission.of(asyncio.get_running_loop()), reached()["arrivals"], []
        gate.leave_turns(lambda: beside_publish)
        gate._allowed = allowed
        done = [gate.start(lambda number=number: begun.append(number), limit) for number in range(count)]  # type: ignore[misc]
        assert reached()["arrivals"] == before + done.count(False)
        seen = 0
        while seen < count:
            turns.append(len(begun) - seen)
            seen = len(begun)
            await asyncio.sleep(0)
        return turns

    found = asyncio.run(main())
    assert begun == list(range(count))
    return found


def without_pauses(turns: list[int]) -> list[int]:
    """Return how many steps started in each turn that started some."""
    return [started for started in turns if started]


def test_after_a_short_turn_twice_as_many_start_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "_SHORT", 3_600.0)
    monkeypatch.setattr(admission_module, "_DEPRIVED", 3_600.0)
    assert without_pauses(started_in_turns(18, limit=6, allowed=1)) == [1, 2, 4, 6, 5]


def test_after_a_long_turn_half_as_many_start_unless_it_was_the_work_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "_SHORT", -1.0)
    monkeypatch.setattr(admission_module, "_LONG", -1.0)
    monkeypatch.setattr(admission_module, "_DEPRIVED", 3_600.0)
    assert started_in_turns(14, limit=4, allowed=4) == [4, 2, 1, 4, 2, 1]  # others' long turns are no reason to pause


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every time for a short one, in which nobody else had the processor."""
    for name in ("_SHORT", "_LONG", "_DEPRIVED"):
        monkeypatch.setattr(admission_module, name, 3_600.0)


@pytest.mark.usefixtures("unhurried")
def test_between_turns_that_start_steps_come_turns_for_a_publish_on_its_way() -> None:
    assert started_in_turns(6, limit=2, allowed=2, beside_publish=True) == [2, 0, 0, 0, 2, 0, 0, 0, 2]
    assert started_in_turns(6, limit=2, allowed=2) == [2, 2, 2]


@pytest.mark.usefixtures("unhurried")
def test_while_a_thread_is_busy_none_starts_until_it_has_done_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "_REST", 3_600.0)
    begun: list[int] = []
    busy = [True]

    async def main() -> None:
        gate = Admission.of(asyncio.get_running_loop())
        forget = gate.let_first(lambda: bool(busy))
        gate.go_on()  # nothing rests
        for number in range(4):
            gate.start(lambda number=number: begun.append(number), 1)  # type: ignore[misc]
        for done in (1, 2):
            await wait_until(lambda: gate._rest is not None)
            assert len(begun) == done
            assert not gate.start(lambda: begun.append(4), 1)
            gate.go_on()
            gate.go_on()
            await wait_until(lambda done=done: len(begun) == done + 1)  # type: ignore[misc]
        await wait_until(lambda: gate._rest is not None)
        forget()
        gate.go_on()
        await wait_until(lambda: len(begun) == 6)

    asyncio.run(main())
    assert begun == [0, 1, 2, 3, 4, 4]


def test_where_another_had_the_processor_newcomers_let_it_have_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "_DEPRIVED", -3_600.0)
    monkeypatch.setattr(admission_module, "_REST", 0.005)
    begun: list[float] = []

    async def main() -> None:
        gate = Admission.of(asyncio.get_running_loop())
        for _ in range(6):
            gate.start(lambda: begun.append(time.monotonic()), 1)
        await wait_until(lambda: len(begun) == 6)
        assert all(later - earlier >= 0.004 for earlier, later in itertools.pairwise(begun))
        await wait_until(lambda: not gate._started)
        assert gate.start(lambda: begun.append(0.0), 1)

    asyncio.run(main())


def test_who_gave_up_waiting_holds_nobody_up_and_a_step_that_fails_ends_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        gate = Admission.of(loop)
        await gate.wait_admitted(1)
        waiting = [asyncio.create_task(gate.wait_admitted(1)) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        waiting[3].cancel()
        gate.start(lambda: 1 / 0, 1)  # type: ignore[arg-type,return-value]
        last = asyncio.create_task(gate.wait_admitted(1))
        await asyncio.wait_for(asyncio.gather(*waiting, last, return_exceptions=True), 10)
        await wait_until(lambda: not gate._waiting)
        assert [type(failure["exception"]) for failure in failures] == [ZeroDivisionError]

    asyncio.run(main())


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def _listening(**limits: float) -> AsyncIterator[int]:
    config = uvicorn.Config(_answer, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    bounded = configured(Limits(**limits))
    server = await loop.create_server(lambda: bounded(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_what_comes_while_a_connection_waits_is_read_whole_and_a_wait_is_not_the_clients_fault() -> None:
    async def main() -> None:
        async with _listening(header_seconds=0.05) as port:
            gate = Admission.of(asyncio.get_running_loop())
            gate._started = 4  # a turn that does not end
            before = reached()["header_seconds"]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-len")
            await wait_until(lambda: len(gate._waiting) == 1)
            writer.write(b"gth: 1000000\r\n")
            held = gate._waiting[0].__self__  # type: ignore[attr-defined]
            await wait_until(lambda: not held._transport.is_reading())
            writer.write(b"connection: close\r\n\r\n" + b"x" * 1_000_000)
            _, gone_writer = await asyncio.open_connection("127.0.0.1", port)
            gone_writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
            other_writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            await wait_until(lambda: len(gate._waiting) == 3)
            gone_writer.transport.abort()
            end = time.monotonic() + 0.2  # longer than the headers may take
            await wait_until(lambda: time.monotonic() > end)
            gate._next_turn(4)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:80]
            assert answer.endswith(b"\r\n\r\n" + b"x" * 1_000_000)
            assert reached()["header_seconds"] == before
            assert (await asyncio.wait_for(other_reader.read(), 10)).startswith(b"HTTP/1.1 200")
            writer.close()
            other_writer.close()

    asyncio.run(main())


def test_hundreds_at_once_are_all_served_a_few_in_a_turn() -> None:
    with serving() as server, contextlib.ExitStack() as stack:
        before = server.stats()["limits"].get("arrivals", 0)
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(200)
        ]
        server.stats()  # asked for behind them: they are accepted
        os.kill(server.process.pid, signal.SIGSTOP)  # what they send lies ready for one turn
        try:
            for one in sockets:
                one.sendall(request("/echo"))
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert all(one.recv(12) == b"HTTP/1.1 101" for one in sockets)
        wait_for(lambda: server.stats()["limits"].get("arrivals", 0) > before, why="some have waited")
