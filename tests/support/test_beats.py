"""Beats: the same moments for all processes of a machine, with what others need a little before."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest

from tidewire.support.beats import Beats


class Clock:
    """An event loop of which only the time goes on."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._numbers), call, arguments))

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> None:
        self.call_later(0.0, call, *arguments)

    def run_until(self, end: float) -> None:
        while self._due and self._due[0][0] <= end:
            self.now, _, call, arguments = heapq.heappop(self._due)
            call(*arguments)
        self.now = end


class Process:
    """One process: when it sent and pushed."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.sent: list[float] = []
        self.pushed: list[float] = []
        self.beats = Beats(cast(Any, clock), seconds, lambda: self.sent.append(round(clock.now, 3)), self._push)

    def _push(self) -> None:
        self.pushed.append(round(self.clock.now, 3))
        self.beats.end()


def test_the_first_after_a_pause_goes_at_once_and_others_at_the_next_beat() -> None:
    clock = Clock(10.01)
    one = Process(clock, 0.1)
    one.beats.ask()
    one.beats.ask()
    clock.run_until(10.02)
    assert (one.sent, one.pushed) == ([10.01], [10.01])
    one.beats.ask()
    clock.run_until(10.09)
    assert (one.sent, one.pushed) == ([10.01, 10.08], [10.01]), "others have it a fifth of a beat earlier"
    one.beats.ask()
    clock.run_until(10.15)
    assert one.pushed == [10.01, 10.1]
    clock.run_until(10.3)
    one.beats.ask()
    clock.run_until(10.31)
    assert one.pushed == [10.01, 10.1, 10.3]


def test_what_comes_too_late_for_others_is_pushed_here() -> None:
    clock = Clock(20.05)
    one = Process(clock, 0.1)
    one.beats.ask()
    clock.run_until(20.085)
    one.beats.ask()
    clock.run_until(20.15)
    assert (one.sent, one.pushed) == ([20.05], [20.05, 20.1])


@pytest.mark.parametrize("began", [30.0, 30.013, 30.0301])
def test_all_processes_have_the_same_beats(began: float) -> None:
    clock = Clock(began)
    one = Process(clock, 0.025)
    while clock.now < 30.5:
        one.beats.ask()
        clock.run_until(clock.now + 0.0007)
    gaps = {round(later - earlier, 3) for earlier, later in itertools.pairwise(one.pushed[2:])}
    assert gaps == {0.025}
    assert all(round(at * 1_000) % 25 == 0 for at in one.pushed[2:])


def test_without_seconds_each_turn_is_a_beat() -> None:
    clock = Clock(40.0)
    one = Process(clock, 0.0)
    for _ in range(3):
        one.beats.ask()
        clock.run_until(clock.now)
    assert len(one.pushed) == 3
