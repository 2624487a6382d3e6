"""Which nodes of a store are dead: known by kernel file locks, and by counters that no longer move.

Only time that this process spent watching counts, by its own monotonic clock, so a process or a laptop that slept finds
nobody dead when it wakes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

__all__ = ("Lock", "NodeRow", "Watch", "is_alive", "remove_stale")

_SUFFIX = ".node"


class Lock:
    """The lock that the kernel holds for this process as long as it lives; observers find it by its token."""

    def __init__(self, folder: Path) -> None:
        self.token = secrets.token_hex(8)
        self._path = folder / (self.token + _SUFFIX)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        """Release it: to the others this node is dead."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)


def is_alive(folder: Path, token: str) -> bool:
    """The process that holds this token's lock lives."""
    try:
        descriptor = os.open(folder / (token + _SUFFIX), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two observers do not take each other for it
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_stale(folder: Path) -> None:
    """Remove the lock files of dead processes; they say the same when they are missing."""
    for path in folder.glob("*" + _SUFFIX):
        if not is_alive(folder, path.name.removesuffix(_SUFFIX)):
            with contextlib.suppress(OSError):
                path.unlink()


class NodeRow(msgspec.Struct, frozen=True):
    """A node as the store lists it; `dead` was declared by the node that noticed first."""

    id: int
    token: str
    counter: int
    dead: bool


class _Seen:
    __slots__ = ("counter", "free", "silent")

    def __init__(self, counter: int) -> None:
        self.counter = counter
        self.silent = 0.0
        self.free = 0.0


class Watch:
    """The other processes as one process has seen them, and for how long."""

    def __init__(self, lease: float, grace: float, longest_step: float) -> None:
        self._lease = lease
        self._grace = grace
        self._longest_step = longest_step
        self._nodes: dict[int, _Seen] = {}
        self._claims: dict[str, _Seen] = {}
        self._looked: float | None = None
        #: Nodes that are dead, their grace not over: joining users take the place of their members.
        self.dead: list[int] = []
        #: Nodes whose members may be claimed, with the counter at which each was seen last.
        self.departed: dict[int, int] = {}
        #: Claims that were not forgotten within a lease: token, how often claimed.
        self.overdue: dict[str, int] = {}

    def look(self, now: float, nodes: Iterable[tuple[NodeRow, bool]], claims: Iterable[tuple[str, int]]) -> None:
        """Take note of all other nodes (and whether their lock is held), and of all claims."""
        step = 0.0 if self._looked is None else min(now - self._looked, self._longest_step)
        self._looked = now
        before, self._nodes = self._nodes, {}
        self.dead, self.departed = [], {}
        for row, is_locked in nodes:
            seen = self._nodes[row.id] = _updated(before.get(row.id), row.counter, step)
            seen.free = 0.0 if is_locked else seen.free + step
            is_silent = seen.silent >= self._lease
            if row.dead or not is_locked or is_silent:
                self.dead.append(row.id)
            if row.dead or seen.free >= self._grace or seen.silent >= self._lease + self._grace / 2:
                self.departed[row.id] = row.counter
        before_claims, self._claims = self._claims, {}
        for token, count in claims:
            self._claims[token] = _updated(before_claims.get(token), count, step)
        self.overdue = {token: seen.counter for token, seen in self._claims.items() if seen.silent >= self._lease}

    def reset(self) -> None:
        """Begin anew, after a time in which nobody could be seen."""
        self._nodes.clear()
        self._claims.clear()
        self.dead, self.departed, self.overdue = [], {}, {}


def _updated(seen: _Seen | None, counter: int, step: float) -> _Seen:
    """Return the state of a counter after a step in which it was watched."""
    if seen is None:
        return _Seen(counter)
    if seen.counter != counter:
        seen.counter, seen.silent = counter, 0.0
    else:
        seen.silent += step
    return seen
