"""Passwords: their hashes, and fair turns at the processor for all that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from pwdlib import PasswordHash
from pwdlib.exceptions import PwdlibError
from pwdlib.hashers.argon2 import Argon2Hasher

from tidewire.errors import TidewireError
from tidewire.server.login_attempts import TooManyAttempts
from tidewire.support.counters import count_limit

__all__ = ("FairTurns", "Passwords", "WeakPassword", "check_password", "verify_password")

_PASSWORD_LENGTH = range(8, 1_025)
#: Argon2id as OWASP's password storage cheat sheet has it: 19 MiB, two passes, one thread.
_HASHER = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1),))
#: Hashes that are computed at a time, so that a flood of logins leaves the event loop a core.
_HASHING = 2
#: Seconds after which a login that found no place may try again.
_AGAIN_SECONDS = 5.0


class WeakPassword(TidewireError):
    """Raised for a password that is too short, or absurdly long."""


def check_password(password: str) -> None:
    """Raise WeakPassword unless this can be a password; the text never shows it."""
    if len(password) not in _PASSWORD_LENGTH:
        raise WeakPassword(
            f"a password needs at least {_PASSWORD_LENGTH.start} characters"
            if len(password) < _PASSWORD_LENGTH.start
            else f"a password has at most {_PASSWORD_LENGTH.stop - 1} characters"
        )


def verify_password(password: str, expected: str) -> bool:
    """Return whether a password has this hash; takes the same time in either case."""
    try:
        return _HASHER.verify(password, expected)
    except PwdlibError:
        return False


class Passwords:
    """Hashes and verifies passwords in threads, a few at a time, in fair turns.

    A turn is for a path such as ("login", network, name): kinds take turns, then the networks of a kind, then the names
    of a network, so that a flood delays only those who make it. Raises TooManyAttempts when too many wait.
    """

    def __init__(self, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(_HASHING, "tidewire-argon2")
        self._turns = FairTurns(_HASHING, waiting)

    async def hash(self, password: str, *path: str) -> str:
        """Return the hash of a password."""
        async with self._turns.turn(path):
            return await asyncio.get_running_loop().run_in_executor(self._threads, _HASHER.hash, password)

    async def verify(self, password: str, expected: str, *path: str) -> bool:
        """Return whether a password has this hash."""
        async with self._turns.turn(path):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, verify_password, password, expected)

    def close(self) -> None:
        """Wait for the last hash, and end the threads."""
        self._threads.shutdown()


class _Branch:
    """Waiters below one part of a path: branches by the next part, or, at the end of the path, the waiters."""

    __slots__ = ("branches", "count", "waiters")

    def __init__(self) -> None:
        self.count = 0
        self.branches: dict[str, _Branch] = {}
        self.waiters: list[asyncio.Future[None]] = []

    def add(self, path: Sequence[str], waiter: asyncio.Future[None]) -> None:
        self.count += 1
        if path:
            self.branches.setdefault(path[0], _Branch()).add(path[1:], waiter)
        else:
            self.waiters.append(waiter)

    def take(self) -> asyncio.Future[None]:
        """Remove and return the waiter whose turn it is; its branches go to the end of their rows."""
        self.count -= 1
        if self.waiters:
            return self.waiters.pop(0)
        name = next(iter(self.branches))
        branch = self.branches.pop(name)
        waiter = branch.take()
        if branch.count:
            self.branches[name] = branch
        return waiter

    def discard(self, path: Sequence[str], waiter: asyncio.Future[None]) -> bool:
        """Remove a waiter that gave up; False when it has had its turn."""
        if path:
            branch = self.branches.get(path[0])
            if branch is None or not branch.discard(path[1:], waiter):
                return False
            if not branch.count:
                del self.branches[path[0]]
        elif waiter in self.waiters:
            self.waiters.remove(waiter)
        else:
            return False
        self.count -= 1
        return True

    def largest(self) -> tuple[tuple[str, ...], list[asyncio.Future[None]]]:
        """Return the path on which most wait, and its waiters."""
        if self.waiters:
            return (), self.waiters
        name, branch = max(self.branches.items(), key=lambda item: item[1].count)
        path, waiters = branch.largest()
        return (name, *path), waiters


class FairTurns:
    """Lets `slots` waiters work at a time; each part of a path takes turns with its siblings."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._free = slots
        self._most = waiting
        self._root = _Branch()

    @asynccontextmanager
    async def turn(self, path: Sequence[str]) -> AsyncIterator[None]:
        """Wait for a turn. Raises TooManyAttempts when this path, or the largest one, has no place left."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(path)
        try:
            yield
        finally:
            self._next()

    async def _wait(self, path: Sequence[str]) -> None:
        if self._root.count >= self._most:
            self._make_room(path)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._root.add(path, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not self._root.discard(path, waiter) and not waiter.cancelled() and waiter.exception() is None:
                self._next()  # it had its turn, and cannot use it
            raise

    def _make_room(self, path: Sequence[str]) -> None:
        """Send away the newest waiter of the path on which most wait, or the newcomer if that is its own."""
        count_limit("logins_waiting")
        largest, waiters = self._root.largest()
        is_own = largest == tuple(path) or (largest[:-1] == tuple(path[:-1]) and len(waiters) == 1)
        if is_own:
            raise TooManyAttempts(_AGAIN_SECONDS, "logins_waiting")
        waiter = waiters[-1]
        self._root.discard(largest, waiter)
        waiter.set_exception(TooManyAttempts(_AGAIN_SECONDS, "logins_waiting"))

    def _next(self) -> None:
        while self._root.count:
            waiter = self._root.take()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
