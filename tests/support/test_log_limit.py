"""Lines that clients cause: the first at once, then few, and none is left out without being counted."""

from __future__ import annotations

from tidewire.support.log_limit import LogLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_line_a_minute_says_how_many_it_stands_for() -> None:
    clock = Clock()
    limit = LogLimit(60, clock=clock)
    assert [limit.due("bad") for _ in range(4)] == ["", None, None, None]
    assert limit.due("worse") == ""
    clock.now = 60.0
    assert limit.due("bad") == " (and 3 more since the last line)"
    clock.now = 120.0
    assert limit.due("bad") == ""


def test_made_up_kinds_fill_neither_the_memory_nor_the_log() -> None:
    clock = Clock()
    limit = LogLimit(60, clock=clock)
    lines = [line for number in range(1_000) if (line := limit.due(str(number))) is not None]
    assert lines == [""] * 51
    clock.now = 60.0
    assert limit.due("0") == ""
    assert limit.due("one more") == ""
