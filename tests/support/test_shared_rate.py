"""A rate that processes share: those that send slowly rarely ask, and all together never have more than it allows."""

from __future__ import annotations

import pytest

from tidewire.support.key_counts import Counts
from tidewire.support.shared_rate import SharedRate

RATE, BURST = 500.0, 20.0
#: Tokens that a process may owe.
OWED = 9


class Bucket(Counts):
    """The shared counts by a clock of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.asked = 0
        self.level = BURST
        self.filled_at = self.now

    def take(self, key: str, wanted: int, rate: float, burst: float) -> int:
        self.asked += 1
        self.level = min(burst, self.level + (self.now - self.filled_at) * rate)
        self.filled_at = self.now
        granted = min(wanted, int(self.level))
        self.level -= granted
        return granted


def test_what_comes_slowly_is_paid_for_some_messages_later() -> None:
    bucket = Bucket()
    rate = SharedRate(bucket, "rate ann", RATE, BURST)
    for _ in range(300):
        bucket.now += 1 / 30
        assert rate.take(1, bucket.now)
    assert bucket.asked == pytest.approx(30, abs=2)


def test_a_rate_that_is_low_is_asked_for_each_message() -> None:
    bucket = Bucket()
    rate = SharedRate(bucket, "rate ann", 10.0, BURST)
    for _ in range(10):
        bucket.now += 1
        assert rate.take(1, bucket.now)
    assert bucket.asked == 10


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.003, 0.01])
def test_all_together_have_what_the_rate_allows_and_what_they_owe(pause: float) -> None:
    bucket = Bucket()
    rates = [SharedRate(bucket, "rate ann", RATE, BURST) for _ in range(4)]
    began, admitted = bucket.now, 0
    for _ in range(2_000):
        bucket.now += pause
        admitted += sum([rate.take(1, bucket.now) for rate in rates])
        assert admitted <= BURST + (bucket.now - began) * RATE + len(rates) * OWED
    assert admitted >= min(8_000, BURST + (bucket.now - began) * RATE) - len(rates) * OWED


def test_a_bucket_that_is_empty_admits_no_more_than_is_owed() -> None:
    bucket = Bucket()
    rate = SharedRate(bucket, "rate ann", RATE, BURST)
    bucket.level, admitted = -10_000.0, 0
    for _ in range(100):
        bucket.now += 0.01
        bucket.filled_at = bucket.now
        admitted += rate.take(1, bucket.now)
    assert admitted == OWED
    assert not rate.take(1, bucket.now)
