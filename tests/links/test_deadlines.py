"""The deadlines of a WebSocket, by a clock that only the test moves."""

from __future__ import annotations

from typing import cast

from tidewire.limits import Limits
from tidewire.links.bytes_ahead import BytesAhead
from tidewire.links.deadlines import Deadlines, Due

LIMITS = Limits(ping_seconds=25, pong_seconds=10)


def test_pings_follow_each_other_and_each_wants_its_pong() -> None:
    deadlines = Deadlines(LIMITS)
    assert deadlines.next_moment() is None
    deadlines.start_pings(100.0, 0.5)
    assert deadlines.next_moment() == 112.5
    assert deadlines.take_due(112.0, is_reading=True) is Due.NOTHING
    assert deadlines.take_due(112.5, is_reading=True) is Due.PING
    assert deadlines.next_moment() == 122.5
    deadlines.pong_received()
    assert deadlines.next_moment() == 137.5
    assert deadlines.take_due(137.5, is_reading=True) is Due.PING
    assert deadlines.take_due(147.4, is_reading=True) is Due.NOTHING
    assert deadlines.take_due(147.5, is_reading=True) is Due.NO_PONG


def test_nobody_is_judged_while_it_is_not_read() -> None:
    deadlines = Deadlines(LIMITS)
    deadlines.start_pings(1.0, 0.0)
    assert deadlines.take_due(1.0, is_reading=True) is Due.PING
    assert deadlines.take_due(24.0, is_reading=False) is Due.NOTHING
    assert deadlines.take_due(26.0, is_reading=False) is Due.PING
    deadlines.reading_resumed(60.0)
    assert deadlines.take_due(69.0, is_reading=True) is Due.PING
    assert deadlines.take_due(70.0, is_reading=True) is Due.NO_PONG


class Ahead:
    """Bytes before a ping, of which the client takes as the test says."""

    def __init__(self) -> None:
        self.moves = self.are_taken = False

    def have_moved(self) -> bool:
        return self.moves


def pinged() -> tuple[Deadlines, Ahead]:
    """Return deadlines whose first ping was at 1.0, and what stands before it."""
    deadlines, ahead = Deadlines(LIMITS), Ahead()
    deadlines.start_pings(1.0, 0.0)
    assert deadlines.take_due(1.0, is_reading=True, ahead=lambda: cast(BytesAhead, ahead)) is Due.PING
    return deadlines, ahead


def test_a_pong_is_waited_for_while_the_client_takes_what_is_before_the_ping() -> None:
    deadlines, ahead = pinged()
    assert deadlines.next_moment() == 2.0, "they are looked at again and again"
    ahead.moves = True
    assert deadlines.take_due(10.0, is_reading=True) is Due.NOTHING
    ahead.moves = False
    assert deadlines.take_due(19.9, is_reading=True) is Due.NOTHING
    assert deadlines.take_due(20.0, is_reading=True) is Due.NO_PONG


def test_a_pong_is_due_in_its_time_once_the_ping_has_come() -> None:
    """A frozen client's kernel takes what comes behind the ping, too, for minutes."""
    deadlines, ahead = pinged()
    ahead.moves = ahead.are_taken = True
    assert deadlines.take_due(2.0, is_reading=True) is Due.NOTHING
    assert deadlines.next_moment() == 12.0
    assert deadlines.take_due(12.0, is_reading=True) is Due.NO_PONG


def test_what_is_before_a_later_ping_does_not_put_off_the_pong_that_is_due() -> None:
    deadlines = Deadlines(Limits(ping_seconds=4, pong_seconds=10))
    deadlines.start_pings(1.0, 0.0)
    assert deadlines.take_due(1.0, is_reading=True) is Due.PING
    later = Ahead()
    later.moves = True
    assert deadlines.take_due(5.0, is_reading=True, ahead=lambda: cast(BytesAhead, later)) is Due.PING
    assert deadlines.take_due(9.0, is_reading=True) is Due.PING
    assert deadlines.take_due(11.0, is_reading=True) is Due.NO_PONG


def test_a_message_is_not_waited_for_longer_because_its_sender_takes_bytes() -> None:
    deadlines, ahead = pinged()
    ahead.moves = True
    deadlines.message_began(1.0)
    assert deadlines.take_due(1.0 + LIMITS.message_seconds, is_reading=True) is Due.LATE_MESSAGE


def test_a_client_that_has_answered_is_not_looked_at() -> None:
    deadlines, _ = pinged()
    deadlines.pong_received()
    assert deadlines.take_due(2.0, is_reading=True) is Due.NOTHING
    assert deadlines.next_moment() == 26.0


def test_no_pings_where_they_are_off_or_stopped() -> None:
    deadlines = Deadlines(Limits(ping_seconds=0))
    deadlines.start_pings(0.0, 0.5)
    assert deadlines.next_moment() is None
    deadlines = Deadlines(LIMITS)
    deadlines.start_pings(1.0, 0.0)
    deadlines.take_due(1.0, is_reading=True)
    deadlines.stop_pings()
    assert deadlines.next_moment() is None
    assert deadlines.take_due(1_000.0, is_reading=True) is Due.NOTHING
    deadlines = Deadlines(LIMITS)
    deadlines.stop_pings()
    deadlines.start_pings(1.0, 0.0)
    assert deadlines.next_moment() is None, "whoever stops them before they start needs no timer"


def test_the_end_is_all_that_is_due_once_it_is_set() -> None:
    deadlines = Deadlines(LIMITS)
    deadlines.start_pings(1.0, 0.0)
    deadlines.take_due(1.0, is_reading=True)
    assert not deadlines.is_ending
    deadlines.end(50.0)
    assert deadlines.is_ending
    assert deadlines.next_moment() == 50.0
    assert deadlines.take_due(49.0, is_reading=True) is Due.NOTHING
    assert deadlines.take_due(50.0, is_reading=True) is Due.END


def test_the_rest_of_a_message_is_due_by_its_bytes() -> None:
    deadlines = Deadlines(Limits(ping_seconds=0, message_seconds=10, body_rate=100))
    assert deadlines.message_began(100.0)
    assert not deadlines.message_began(101.0)
    assert deadlines.next_moment() == 110.0
    assert deadlines.take_due(110.0, is_reading=True, received=500) is Due.NOTHING
    assert deadlines.next_moment() == 115.0
    assert deadlines.take_due(115.0, is_reading=True, received=500) is Due.LATE_MESSAGE
    deadlines.message_received()
    assert deadlines.next_moment() is None


def test_the_pong_may_stand_behind_a_message_but_not_for_ever() -> None:
    deadlines = Deadlines(LIMITS)
    deadlines.start_pings(1.0, 0.0)
    assert deadlines.take_due(1.0, is_reading=True) is Due.PING
    deadlines.message_began(10.0)
    assert deadlines.take_due(11.0, is_reading=True) is Due.NOTHING
    deadlines.message_ended()
    assert deadlines.take_due(20.0, is_reading=True) is Due.NO_PONG
