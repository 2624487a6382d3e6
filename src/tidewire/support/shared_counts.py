"""Counts that all processes of one machine share: a file in memory, which is removed when the last of them closes it.

Each process writes only its own part, and holds the kernel's lock of that part for as long as it lives: the counts of a
killed process are free at once. A process that decides holds one more lock, for some microseconds; one that is stopped
amid that delays each of the others once.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import secrets
import stat
import struct
import tempfile
import time
from fcntl import F_OFD_GETLK, F_OFD_SETLK  # Linux: ImportError elsewhere
from pathlib import Path
from typing import Any

from tidewire.support.key_counts import Counts, affordable

__all__ = ("SharedCounts",)

#: Processes that may share a file; each has a part of it.
_PROCESSES = 64
#: A key is in one of so many sets, at any of the places of the set.
_SETS, _PLACES = 4_096, 16
_COUNTS = struct.Struct(f"<{_PLACES}Q{_PLACES}L")
_RATES = struct.Struct(f"<{_PLACES}Q{_PLACES}d")
#: The file: a name that no other has, whether each part is used, the rates, the parts.
_NAME_SIZE = 32
_USED_AT, _RATES_AT = 64, 4_096
_PARTS_AT = _RATES_AT + _SETS * _RATES.size
_PART_SIZE = _SETS * _COUNTS.size
#: The locks are of bytes behind the file's end: one for each part, then that of the process that decides.
_LOCKS_AT = 1 << 40
_JUDGE = _PROCESSES
#: A `struct flock` of 64 bits (fcntl(2)): type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi4x")
#: Seconds for which a process waits for another one that judges: longer than a busy machine keeps a process from its
#: turn; and for which it leaves the processor before it looks again.
_PATIENCE, _PAUSE = 0.5, 0.0001


class SharedCounts(Counts):
    """The counts of all processes that have opened the same path. Raises OSError where they cannot share."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._patience = _PATIENCE
        self._descriptor = self._open()
        try:
            self._part = self._take_part()
            self.name = os.pread(self._descriptor, _NAME_SIZE, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._unlock(_JUDGE)

    @classmethod
    def open(cls, key: str) -> SharedCounts:
        """Open the counts that processes of this user share under a key. Raises OSError where they cannot share."""
        folder = _folder()
        _sweep(folder)
        return cls(folder / hashlib.sha256(key.encode(errors="replace")).hexdigest()[:32])

    def add(self, key: str, most: float = math.inf) -> bool:
        """Add one under a key, if all processes together have fewer than `most`."""
        if self._descriptor < 0:
            return super().add(key, most)
        is_judge = self._begin_judging()
        try:
            if most < math.inf and self._total(key) >= most and not (self._forget_dead() and self._total(key) < most):
                return False
            self.own[key] += 1
            self._write_own(key)
            return True
        finally:
            self._end_judging(is_judge)

    def remove(self, key: str) -> None:
        """Remove one that this process has added."""
        super().remove(key)
        if self._descriptor >= 0:
            self._write_own(key)

    def _charge(self, key: str, wanted: int, rate: float, burst: float) -> int:
        if self._descriptor < 0:
            return 0
        is_judge = self._begin_judging()
        try:
            return self._take(self._digest(key), wanted, rate, burst)
        finally:
            self._end_judging(is_judge)

    def _debt(self, key: str) -> float:
        if self._descriptor < 0:
            return 0.0
        digest = self._digest(key)
        values = self._read(_RATES, _RATES_AT, digest)
        due = values[_PLACES + values.index(digest)] if digest in values[:_PLACES] else 0.0
        return max(0.0, due - time.monotonic())

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the processes that live."""
        return self._descriptor >= 0 and not any(self._is_locked(part) for part in range(self._part))

    def aclose(self) -> None:
        """Leave the others, and count alone; the last process removes the file."""
        is_judge = self._begin_judging()
        os.pwrite(self._descriptor, b"\0", _USED_AT + self._part)
        if is_judge and not any(self._is_locked(part) for part in range(_PROCESSES) if part != self._part):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)  # this releases the locks
        self._descriptor = -1

    # The file.

    def _open(self) -> int:
        """Return the file, with the judge's lock."""
        while True:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if not self._begin_judging():
                os.close(self._descriptor)
                raise OSError(f"another process holds {self._path} for too long")
            if os.fstat(self._descriptor).st_nlink:
                return self._descriptor
            os.close(self._descriptor)  # the last of the processes before has just removed it

    def _take_part(self) -> int:
        free = [part for part in range(_PROCESSES) if not self._is_locked(part)]
        if not free:
            raise OSError(f"{_PROCESSES} processes share {self._path} already")
        if len(free) == _PROCESSES:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, secrets.token_hex(_NAME_SIZE // 2).encode(), 0)
            os.pwrite(self._descriptor, bytes(_PARTS_AT - _RATES_AT), _RATES_AT)  # so that no write fails later
        part = free[0]
        self._try_lock(part)
        os.pwrite(self._descriptor, bytes(_PART_SIZE), _PARTS_AT + part * _PART_SIZE)
        os.pwrite(self._descriptor, b"\1", _USED_AT + part)
        return part

    def _digest(self, key: str) -> int:
        digest = hashlib.blake2b(key.encode(errors="replace"), digest_size=8, key=self.name).digest()
        return int.from_bytes(digest, "little") or 1

    # Counts.

    def _others(self) -> list[int]:
        used = os.pread(self._descriptor, _PROCESSES, _USED_AT)
        return [part for part, is_used in enumerate(used) if is_used and part != self._part]

    def _total(self, key: str) -> int:
        total, digest = self.own.get(key, 0) + self.elsewhere.get(key, 0), self._digest(key)
        for part in self._others():
            values = self._read(_COUNTS, _PARTS_AT + part * _PART_SIZE, digest)
            if digest in values[:_PLACES]:
                total += values[_PLACES + values.index(digest)]
        return total

    def _write_own(self, key: str) -> None:
        """Write how many this process has; where a set is full, the others do not see it."""
        digest, count = self._digest(key), self.own.get(key, 0)
        values = list(self._read(_COUNTS, _PARTS_AT + self._part * _PART_SIZE, digest))
        keys = values[:_PLACES]
        if digest in keys or 0 in keys:
            place = keys.index(digest if digest in keys else 0)
            values[place], values[_PLACES + place] = digest if count else 0, count
            self._write(_COUNTS, _PARTS_AT + self._part * _PART_SIZE, digest, values)

    def _forget_dead(self) -> bool:
        """Free the parts of processes that have died; return whether there were any."""
        dead = [part for part in self._others() if not self._is_locked(part)]
        for part in dead:
            os.pwrite(self._descriptor, b"\0", _USED_AT + part)
        return bool(dead)

    # Rates: the time at which each key has paid off its use.

    def _take(self, digest: int, wanted: int, rate: float, burst: float) -> int:
        now = time.monotonic()  # the same for all processes of a machine
        values = list(self._read(_RATES, _RATES_AT, digest))
        dues = values[_PLACES:]
        place = values.index(digest) if digest in values[:_PLACES] else dues.index(min(dues))
        due = max(now, dues[place]) if values[place] == digest else now
        granted = affordable(due - now, wanted, rate, burst)
        if granted:
            values[place], values[_PLACES + place] = digest, due + granted / rate
            self._write(_RATES, _RATES_AT, digest, values)
        return granted

    def _read(self, layout: struct.Struct, at: int, digest: int) -> tuple[Any, ...]:
        data = os.pread(self._descriptor, layout.size, at + digest % _SETS * layout.size)
        return layout.unpack(data.ljust(layout.size, b"\0"))

    def _write(self, layout: struct.Struct, at: int, digest: int, values: list[Any]) -> None:
        os.pwrite(self._descriptor, layout.pack(*values), at + digest % _SETS * layout.size)

    # Locks. They belong to the open file, so that two hubs of one process are two processes to each other.

    def _begin_judging(self) -> bool:
        """Return whether this process alone judges now; False if another one is stopped amid that."""
        until = time.monotonic() + self._patience
        while not self._try_lock(_JUDGE):
            if time.monotonic() >= until:
                self._patience = 0.0  # nobody waits for it again before it has gone on
                return False
            time.sleep(_PAUSE)
        self._patience = _PATIENCE
        return True

    def _end_judging(self, is_judge: bool) -> None:
        if is_judge:
            self._unlock(_JUDGE)

    def _try_lock(self, lock: int) -> bool:
        try:
            fcntl.fcntl(self._descriptor, F_OFD_SETLK, _flock(fcntl.F_WRLCK, lock))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, lock: int) -> None:
        fcntl.fcntl(self._descriptor, F_OFD_SETLK, _flock(fcntl.F_UNLCK, lock))

    def _is_locked(self, lock: int) -> bool:
        answer = fcntl.fcntl(self._descriptor, F_OFD_GETLK, _flock(fcntl.F_WRLCK, lock))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int, lock: int, count: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _LOCKS_AT + lock, count, 0)


def _sweep(folder: Path) -> None:
    """Remove the files of which no process holds a part: all of theirs were killed."""
    for path in folder.iterdir():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.fcntl(descriptor, F_OFD_SETLK, _flock(fcntl.F_WRLCK, _JUDGE))  # nobody takes a part meanwhile
            answer = fcntl.fcntl(descriptor, F_OFD_GETLK, _flock(fcntl.F_WRLCK, 0, _PROCESSES))
            if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK:
                path.unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _folder() -> Path:
    """Return the folder of this user's files, in memory where there is one. Raises OSError if it is not safe."""
    shared = Path("/dev/shm")
    parent = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    folder = parent / f"tidewire-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} belongs to somebody else, or others may write to it")
    return folder
