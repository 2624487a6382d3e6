"""The write lock's order, and the calls between processes."""

from __future__ import annotations

import select
from pathlib import Path

from tidewire.backends.sqlite.fair_lock import FairLock
from tidewire.backends.sqlite.peers import Peers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_who_releases_does_not_barge_in_before_a_waiter(tmp_path: Path) -> None:
    one, other = FairLock(tmp_path, "write"), FairLock(tmp_path, "write")
    assert one.try_acquire()
    for _ in range(10):
        assert not other.try_acquire()
        one.release()
        assert not one.try_acquire()
        assert other.try_acquire()
        one, other = other, one
    one.close()
    other.close()


def test_who_withdraws_holds_up_nobody(tmp_path: Path) -> None:
    one, other = FairLock(tmp_path, "write"), FairLock(tmp_path, "write")
    assert one.try_acquire()
    assert not other.try_acquire()
    assert other.is_waiting
    other.withdraw()
    assert not other.is_waiting
    one.release()
    assert one.try_acquire()
    one.close()
    assert other.try_acquire()
    other.close()


def test_a_waiter_that_is_frozen_is_passed_by(tmp_path: Path) -> None:
    clock = Clock()
    frozen, waiter = FairLock(tmp_path, "write"), FairLock(tmp_path, "write", clock)
    holder = FairLock(tmp_path, "write")
    assert holder.try_acquire()
    assert not frozen.try_acquire()
    assert not waiter.try_acquire()
    holder.release()
    assert not waiter.try_acquire()
    clock.now = 1.0
    assert waiter.try_acquire()
    for lock in (frozen, waiter, holder):
        lock.close()


def test_a_call_reaches_every_other_process_and_the_dead_are_forgotten(tmp_path: Path) -> None:
    one, two, three = (Peers(tmp_path) for _ in range(3))
    one.wake()
    for _ in range(100):
        one.wake()
    for peer in (two, three):
        assert select.select([peer], [], [], 2)[0]
        assert peer.drain()
        assert not peer.drain()
    assert not one.drain()
    three._socket.close()  # as a kill leaves it: the file stays
    one.wake()
    assert len(list(tmp_path.glob("*.sock"))) == 2
    assert two.drain()
    one.close()
    two.close()
    assert not list(tmp_path.glob("*.sock"))
