"""The reading half of a WebSocket, on a transport that only remembers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, cast

from tests.links.wire import PING, TEXT, frame

from tidewire.links.reader import BY_APPLICATION, BY_WRITER, Control, Fault, Reader


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Transport:
    def __init__(self) -> None:
        self.is_reading = True
        self.is_aborted = False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


class Reading:
    """A reader, and what it has given; a message that says so pauses or closes it."""

    def __init__(self, early: bytes = b"") -> None:
        self.transport = Transport()
        self.given: list[object] = []
        self.reader = Reader(cast(asyncio.Transport, self.transport), asyncio.get_running_loop())
        self.reader.open(self.take, early, 100, 5, [])

    def take(self, event: str | bytes | Control | Fault) -> None:
        self.given.append(event)
        if event == "pause":
            self.reader.pause(BY_APPLICATION)
        elif event == "close":
            self.reader.close()


@in_loop
async def test_a_pause_takes_effect_in_the_middle_of_what_has_come() -> None:
    reading = Reading()
    reading.reader.feed(frame(TEXT, b"one") + frame(TEXT, b"pause") + frame(TEXT, b"two"))
    reading.reader.feed(frame(TEXT, b"three"))
    assert reading.given == ["one", "pause"]
    assert not reading.transport.is_reading
    assert reading.reader.resume(BY_APPLICATION)
    assert not reading.transport.is_reading, "what has come is read first"
    await asyncio.sleep(0)
    assert reading.given == ["one", "pause", "two", "three"]
    assert reading.transport.is_reading


@in_loop
async def test_each_reason_to_pause_must_end() -> None:
    reading = Reading()
    reading.reader.pause(BY_APPLICATION)
    reading.reader.pause(BY_WRITER)
    assert not reading.reader.resume(BY_APPLICATION)
    assert not reading.reader.resume(BY_APPLICATION)
    assert reading.reader.is_paused
    assert reading.reader.resume(BY_WRITER)
    assert reading.transport.is_reading
    assert not reading.reader.resume(BY_WRITER)


@in_loop
async def test_what_came_early_is_read_in_the_next_turn() -> None:
    reading = Reading(frame(TEXT, b"early"))
    assert reading.given == []
    await asyncio.sleep(0)
    assert reading.given == ["early"]


@in_loop
async def test_nothing_is_given_after_the_end_and_not_much_more_is_read() -> None:
    reading = Reading()
    reading.reader.feed(frame(TEXT, b"close") + frame(TEXT, b"late") + frame(PING))
    assert reading.given == ["close"]
    assert not reading.reader.is_open
    for _ in range(4):
        reading.reader.feed(bytes(1_048_576))
    assert not reading.transport.is_aborted
    reading.reader.feed(b"x")
    assert reading.transport.is_aborted


@in_loop
async def test_a_fault_is_given_like_a_message() -> None:
    reading = Reading()
    reading.reader.feed(frame(TEXT, b"good") + frame(TEXT, b"bad", masked=False))
    assert reading.given[0] == "good"
    assert isinstance(reading.given[1], Fault)
