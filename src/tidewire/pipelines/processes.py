"""Finds and ends processes, safely against reused process ids. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping

__all__ = ("descendants", "end_below", "end_identity", "end_marked", "has_children", "identity", "is_alive")

_BOOT = "/proc/sys/kernel/random/boot_id"
#: Seconds between two checks of ending processes, and rounds of killing processes that fork meanwhile.
_STEP_SECONDS, _ROUNDS = 0.01, 300


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the name in parentheses may hold anything
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []


def identity(pid: int) -> str:
    """Return a unique name of a process (boot id, process id, start time); "" when it is unknown."""
    fields = _stat(pid)
    try:
        with open(_BOOT) as file:
            return f"{file.read().strip()}:{pid}:{fields[19]}" if fields else ""
    except OSError:
        return ""


def is_alive(name: str) -> bool:
    """Return whether the process of an identity is alive; a zombie is not."""
    pid = int(name.split(":")[1]) if name.count(":") == 2 else 0
    return bool(pid) and identity(pid) == name and _stat(pid)[:1] not in ([], ["Z"])


def descendants(pid: int) -> list[int]:
    """Return the living processes below one (Linux; elsewhere none)."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdecimal() and (fields := _stat(int(name))) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def has_children() -> bool:
    """Return whether this process has children; all descendants count for a subreaper (prctl(2))."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_below(group: int) -> None:
    """Kill and reap all descendants of this process, a subreaper, and their forks; `group` is one of their groups."""
    for _ in range(_ROUNDS):
        below = descendants(os.getpid())
        # Stopped first, because a stopped process cannot fork. By groups, too: a process that forks and exits all the
        # time is never listed under the same id for long.
        groups = _groups(below) | {group}
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for target in (*(-group for group in groups), *below):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(target, signum)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_STEP_SECONDS)


def _groups(pids: list[int]) -> set[int]:
    found = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found.add(os.getpgid(pid))
    return found - {os.getpgrp()}


def end_marked(marks: Mapping[str, str]) -> None:
    """Kill all processes that have these variables in their environment, which a dead guard left, in any session."""
    if not marks:
        return
    wanted = [f"{name}={value}".encode() for name, value in marks.items()]
    for _ in range(_ROUNDS):
        found = [pid for pid in _all() if _has(pid, wanted)]
        if not found:
            return
        # all are stopped first: a process that runs could fork while the others are killed
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signum)
        time.sleep(_STEP_SECONDS)


def _all() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _has(pid: int, wanted: list[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False  # it has ended, or belongs to another user
    return all(mark in variables for mark in wanted) and _stat(pid)[:1] not in ([], ["Z"])


def end_identity(name: str, *, seconds: float) -> bool:
    """Wait for a process to end by itself, then kill it and its group; False when it still lives."""
    end = time.monotonic() + seconds
    while is_alive(name) and time.monotonic() < end:
        time.sleep(_STEP_SECONDS)
    for _ in range(_ROUNDS):
        if not is_alive(name):
            return True
        pid = int(name.split(":")[1])
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        time.sleep(_STEP_SECONDS)
    return False
