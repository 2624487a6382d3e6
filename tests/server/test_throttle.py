from __future__ import annotations

from tidewire.server.throttle import Throttle


def test_the_key_waits_until_its_oldest_failure_is_old_enough() -> None:
    throttle = Throttle(failures=3, seconds=60)
    for now in (0.0, 10.0, 20.0):
        assert throttle.wait("ann", now) == 0
        throttle.fail("ann", now)
    assert throttle.wait("ann", 21) == 39
    assert throttle.wait("bob", 21) == 0
    assert throttle.wait("ann", 60) == 0
    throttle.fail("ann", 60)
    assert throttle.wait("ann", 60) == 10


def test_forgetting_a_key() -> None:
    throttle = Throttle(failures=1)
    throttle.fail("ann", 0)
    throttle.forget("ann")
    throttle.forget("nobody")
    assert throttle.wait("ann", 0) == 0


def test_the_number_of_keys_is_bounded_and_the_oldest_go_first() -> None:
    throttle = Throttle(failures=1, keys=3)
    for number in range(4):
        throttle.fail(str(number), 0)
    assert [throttle.wait(str(number), 0) > 0 for number in range(4)] == [False, True, True, True]
