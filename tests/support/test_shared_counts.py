"""Counts that processes share: exact among many at once, free when a process dies, gone with the last."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidewire.support import shared_counts
from tidewire.support.key_counts import Counts
from tidewire.support.shared_counts import SharedCounts
from tidewire.support.siblings import open_counts

#: Adds and removes in a loop; tells how often it was let in, and ends with what it still has.
WORKER = """
import sys
from tidewire.support.shared_counts import SharedCounts
counts = SharedCounts.open(sys.argv[1])
granted = counts.take("user", 1_000, 0.001, 700)
for _ in range(200):
    if counts.add("busy", 3):
        counts.remove("busy")
inside = sum(counts.add("net", 50) for _ in range(40))
print(inside, granted, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def key() -> Iterator[str]:
    key = secrets.token_hex(8)
    yield key
    if isinstance(left := open_counts(key), SharedCounts):
        assert left.add("net", 1), "nothing is left of the processes before"
        left.aclose()


def test_processes_share_what_they_count(key: str) -> None:
    command = [sys.executable, "-c", WORKER, key]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    mine = SharedCounts.open(key)
    try:
        told = [tuple(map(int, worker.stdout.readline().split())) for worker in workers if worker.stdout]
        assert sum(inside for inside, _ in told) == 50
        assert sum(granted for _, granted in told) == 700
        assert (mine.add("net", 50), mine.add("busy", 1), mine.take("user", 1, 0.001, 700)) == (False, True, 0)
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        assert sum(mine.add("net", 50) for _ in range(60)) == told[0][0], "what the killed one had is free, no more"
    finally:
        mine.aclose()
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_a_process_that_is_slow_amid_its_judgement_is_waited_for(key: str) -> None:
    one, two = SharedCounts.open(key), SharedCounts.open(key)
    assert one._begin_judging()
    taken = threading.Thread(target=lambda: [two.take("a", 1, 0.001, 5.0), two.add("b", 1)])
    taken.start()
    taken.join(0.1)  # as long as a busy machine may keep a process from its turn
    assert taken.is_alive()
    assert one._take(one._digest("a"), 5, 0.001, 5.0) == 5
    one.own["b"] += 1
    one._write_own("b")
    one._end_judging(True)
    taken.join(10)
    assert two.own["b"] == 0
    assert two.take("a", 1, 0.001, 5.0) == 0
    for counts in (one, two):
        counts.aclose()


def test_a_process_that_is_stopped_amid_its_judgement_is_waited_for_once(key: str) -> None:
    one, two = SharedCounts.open(key), SharedCounts.open(key)
    assert one._begin_judging()
    assert two.add("a", 1)
    began = time.monotonic()
    assert [two.add("a", 1) for _ in range(100)] == [False] * 100
    assert time.monotonic() - began < 5.0, "each waited again"
    one._end_judging(True)
    assert two._begin_judging()
    two._end_judging(True)
    for counts in (one, two):
        counts.aclose()


def test_the_last_one_removes_the_file(key: str) -> None:
    one, two = SharedCounts.open(key), SharedCounts.open(key)
    path = one._path
    assert one.name == two.name
    assert (one.is_first, two.is_first) == (True, False)
    assert one.add("a", 1)
    assert not two.add("a", 1)
    one.aclose()
    assert (two.is_first, two.add("a", 1), path.exists()) == (True, True, True)
    two.aclose()
    assert not path.exists()
    two.remove("a")  # something that ends late
    assert two.take("a", 1, 1.0, 1.0) == 0


def test_more_keys_than_places(key: str) -> None:
    one, two = SharedCounts.open(key), SharedCounts.open(key)
    names = [f"192.0.2.{number}" for number in range(3_000)]
    assert all(one.add(name, 1) for name in names)
    assert not any(two.add(name, 1) for name in names)
    for name in names:
        one.remove(name)
    assert all(two.add(name, 1) for name in names)
    one.aclose()
    two.aclose()


def test_a_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(shared_counts.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"tidewire-{os.geteuid()}"
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    counts = open_counts("a")
    assert type(counts) is Counts
    assert "for each process alone" in caplog.text
    assert (counts.add("a", 1), counts.add("a", 1), counts.take("a", 5, 1.0, 3.0)) == (True, False, 3)
    folder.chmod(0o700)
    shared = open_counts("a")
    assert isinstance(shared, SharedCounts)
    shared.aclose()


def test_files_of_killed_processes_are_removed(key: str) -> None:
    command = [sys.executable, "-c", WORKER, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        mine = SharedCounts.open(secrets.token_hex(8))
        path = shared_counts._folder() / hashlib.sha256(key.encode()).hexdigest()[:32]
        assert path.exists(), "somebody lives there"
        worker.kill()
    other = SharedCounts.open(secrets.token_hex(8))
    assert not path.exists()
    assert mine.add("a", 1), "this one is in use"
    for counts in (mine, other):
        counts.aclose()
