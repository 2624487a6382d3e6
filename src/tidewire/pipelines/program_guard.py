"""A small process between the server and one step's program: it reads the output, and leaves no process behind.

`guard_pool` starts it as a Python without site packages, so it uses the standard library only. The server writes to its
stdin: the task as one line of JSON, later `stop`; the end of stdin means that the server has died, and ends the
program. The guard writes one JSON object a line to its stdout: `started`, `progress`, `log`, and last `ended`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from tidewire.pipelines.output import BoundedLog, unwritable
from tidewire.pipelines.processes import descendants, end_below, has_children, identity
from tidewire.pipelines.program_messages import ProgramMessages
from tidewire.pipelines.progress import Rule, rule_from

__all__ = ("main",)

_READ = _PIPE_SIZE = 1_048_576
#: Seconds to wait for more output after a small piece: waking up for each piece would slow the program down. A fast
#: program fills its pipe in two milliseconds, and must not wait for the guard.
_GATHER_SECONDS, _GATHER_MUCH_SECONDS, _MUCH = 0.003, 0.001, 16_384
_F_SETPIPE_SZ = 1_031
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: Seconds between two reports, and between two looks at the program's position in its input.
_REPORT_SECONDS, _LOOK_SECONDS = 0.1, 0.5
#: Seconds that a program has to end by itself when its server has died.
_ORPHAN_SECONDS = 1.0
#: Descriptors that a parent may have left open are below this.
_DESCRIPTORS = 1_024


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class _Program:
    """The step's program, in a session of its own, with pipes for its output and its progress messages."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.output, writing = os.pipe()
        self.said, saying = os.pipe()
        failed, failing = os.pipe()
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.fcntl(self.output, _F_SETPIPE_SZ, _PIPE_SIZE)
        self.pid = os.fork()
        if self.pid == 0:
            _become(task, writing, saying, failing)
        for descriptor in (writing, saying, failing):
            os.close(descriptor)
        with os.fdopen(failed, "rb") as file:
            problem = file.read()
        if problem:
            os.waitpid(self.pid, 0)
            raise OSError(problem.decode(errors="replace"))
        os.set_blocking(self.output, False)
        os.set_blocking(self.said, False)

    def signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)


def _become(task: dict[str, Any], writing: int, saying: int, failing: int) -> None:
    """Turn this fork into the program; never returns."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for signum in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        os.nice(task["nice"])
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # when memory runs out, the kernel kills a step before the server
        os.chdir(task["cwd"])
        os.dup2(os.open(task["stdin"] or os.devnull, os.O_RDONLY), 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(task["stdout"], flags, 0o640) if task["stdout"] else writing, 1)
        os.dup2(writing, 2)
        os.set_inheritable(saying, True)
        if task["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (task["memory"], task["memory"]))
        argv = task["argv"]
        os.execve(task["program"], argv, task["env"] | {"TIDEWIRE_PROGRESS_FD": str(saying)})
    except OSError as error:
        os.write(failing, f"{error.filename or task['program']}: {error.strerror}".encode(errors="replace"))
    finally:
        os._exit(127)


class _Guard:
    """Reads output, reports to the server, and ends the program on request, after its timeout, or without a server."""

    def __init__(self, task: dict[str, Any]) -> None:
        now = time.monotonic()
        self._task = task
        self._rule: Rule = rule_from(task["progress"])
        self._log = BoundedLog(task["log"], limit=task["log_bytes"], rate=task["log_rate"], now=now)
        self._log.note(task["heading"])
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._program = _Program(task)
        self._reason = ""
        self._error = ""
        self._kill_at = now + task["timeout"] if task["timeout"] else None
        self._is_killing = False
        self._messages = ProgramMessages()
        self._fraction = 0.0
        self._reported: tuple[float, str] = (0.0, "")
        self._settle_at: float | None = None
        self._next_report = self._next_look = 0.0
        self._is_dirty = True
        self._status: int | None = None
        self._poll = select.poll()
        for descriptor in (0, self._wake, self._program.output, self._program.said):
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> dict[str, Any]:
        """Serve the program until it ends; return the final report."""
        pid = self._program.pid
        self._send({"started": [pid, identity(pid)]})
        while self._status is None:
            now = time.monotonic()
            for descriptor, _ in self._poll.poll(self._wait_ms(now)):
                self._handle(descriptor)
            now = time.monotonic()
            self._check_time(now)
            if self._settle_at is not None and now >= self._settle_at:
                self._settle_at = None
                self._rule.settle()
            if now >= self._next_look:
                self._next_look = now + _LOOK_SECONDS
                self._rule.look([pid, *descendants(os.getpid())] if self._task["progress"].get("path") else [])
            if now >= self._next_report:
                self._next_report = now + _REPORT_SECONDS
                self._report()
        return self._end()

    def _wait_ms(self, now: float) -> float:
        until = self._next_look if self._task["progress"].get("path") else now + 60.0
        if self._kill_at is not None:
            until = min(until, self._kill_at)
        if self._settle_at is not None:
            until = min(until, self._settle_at)
        if self._has_news():
            until = min(until, self._next_report)
        return max(0.0, (until - now) * 1_000 + 1)

    def _has_news(self) -> bool:
        return self._is_dirty or (self._fraction_now(), self._messages.message) != self._reported

    def _handle(self, descriptor: int) -> None:
        if descriptor == self._program.output:
            if 0 < (size := self._pump()) < _READ:
                time.sleep(_GATHER_SECONDS if size < _MUCH else _GATHER_MUCH_SECONDS)
        elif descriptor == self._program.said:
            self._listen()
        elif descriptor == self._wake:
            os.read(self._wake, 512)
            self._reap()
        elif os.read(0, 512):
            self.stop("cancelled", self._task["grace"])
        else:
            self._forget(0)
            self.stop("orphaned", _ORPHAN_SECONDS)

    def _forget(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)

    def _pump(self) -> int:
        """Read one piece of output; return its number of bytes, 0 when there is none now."""
        try:
            data = os.read(self._program.output, _READ)
        except BlockingIOError:
            return 0
        if not data:
            self._forget(self._program.output)
            return 0
        self._rule.feed(data)
        self._settle_at = time.monotonic() + _LOOK_SECONDS if self._rule.is_unsettled else None
        self._is_dirty = True
        try:
            self._log.write(data, time.monotonic())
        except OSError as error:
            self._fail(error)
        return len(data)

    def _fail(self, error: OSError) -> None:
        if not self._error:
            self._error = unwritable(error)
            self.stop("disk", self._task["grace"])

    def _listen(self) -> bool:
        """Read the program's messages about itself; return False when there are none now."""
        try:
            data = os.read(self._program.said, _READ)
        except BlockingIOError:
            return False
        if not data:
            self._forget(self._program.said)
            return False
        had_problem = bool(self._messages.problem)
        self._messages.feed(data)
        if self._messages.problem and not had_problem:
            with contextlib.suppress(OSError):  # the next read of the output finds that, too
                self._log.note(
                    f"{self._messages.problem}; write one object a line, as "
                    '{"progress": 0.45, "message": "text"}; later problems of this kind are not noted'
                )
                self._is_dirty = True
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self._program.pid:
                    self._status = status
                if not pid:
                    return

    def stop(self, reason: str, grace: float) -> None:
        """Ask the program to end; it is killed with its descendants if it does not end in time."""
        self._reason = self._reason or reason
        if self._is_killing:
            return
        self._is_killing = True
        self._kill_at = time.monotonic() + grace
        self._program.signal(signal.SIGTERM)
        self._program.signal(signal.SIGCONT)

    def _check_time(self, now: float) -> None:
        if self._kill_at is None or now < self._kill_at:
            return
        if not self._is_killing:
            self.stop("timeout", self._task["grace"])
            return
        self._kill_at = now + 1.0
        self._program.signal(signal.SIGKILL)

    def _fraction_now(self) -> float:
        self._fraction = max(self._fraction, self._messages.fraction, min(self._rule.fraction, 1.0))
        return round(self._fraction, 3)

    def _report(self) -> None:
        news = self._log.news()
        if news is not None:
            self._send({"log": news})
        self._is_dirty = False
        now = (self._fraction_now(), self._messages.message)
        if now != self._reported:
            self._reported = now
            self._send({"progress": now})

    def _end(self) -> dict[str, Any]:
        """End the processes that the program left behind, and read the rest of its output."""
        left = 0
        if has_children():
            left = len(descendants(os.getpid())) or 1
            end_below(self._program.pid)  # first, because a process that lives on may write for ever
        while self._listen() or self._pump():
            pass
        code = os.waitstatus_to_exitcode(self._status or 0)
        lines = self._log.last_lines()
        try:
            if left and not self._is_killing:
                self._log.note(f"{left} processes that it left behind were ended")
            self._log.note(f"ended with {code}" + (f" ({self._reason})" if self._reason else ""))
            self._log.close()
        except OSError as error:
            self._fail(error)
        self._report()
        return {
            "exit": code,
            "reason": self._reason,
            "error": self._error or self._messages.error,
            "lines": lines,
            "left_out": self._log.left_out,
        }

    def _send(self, message: dict[str, Any]) -> None:
        try:
            _write(message)
        except BrokenPipeError:
            self.stop("orphaned", _ORPHAN_SECONDS)


def _write(message: dict[str, Any]) -> None:
    rest = json.dumps(message).encode() + b"\n"
    while rest:
        rest = rest[os.write(1, rest) :]


def _read_task() -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 65_536)
        if not data:
            sys.exit(1)  # the server has died before it sent a task
        line += data
    task: dict[str, Any] = json.loads(line)
    return task


def main() -> None:
    """Guard one program."""
    # An event loop leaves copies of the pipes open. A program would inherit them, and keep them open without its guard.
    os.closerange(3, _DESCRIPTORS)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    task = _read_task()
    try:
        guard = _Guard(task)
        signal.signal(signal.SIGTERM, lambda *_: guard.stop("cancelled", task["grace"]))
        ended = guard.run()
    except OSError as error:
        problem = error.strerror or str(error)
        full = "; free some space, then resume the run" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        ended = {"exit": None, "reason": "start", "error": f"it cannot be started ({problem}){full}"}
    with contextlib.suppress(BrokenPipeError):
        _write({"ended": ended})
    os._exit(0)  # the server waits for this process: skip the interpreter's shutdown
