"""The log file of one step, bounded in bytes and in rate. Standard library only: the guard of a step uses it, too."""

from __future__ import annotations

import codecs
import errno
import os
import re

__all__ = ("BoundedLog", "plain", "unwritable")

#: Sequences of a terminal (ECMA-48): colours and movements, titles and links, and others of two characters.
_SEQUENCES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
#: Characters that a terminal obeys, but does not show.
_CONTROLS = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BACKSPACE = re.compile(r"[^\n\x08]\x08")

#: Bytes of the newest output that are kept in memory while output is left out.
_TAIL = 65_536
#: Bytes of the newest written text that a listener is given.
_RECENT = 16_384
#: Seconds of the rate that may come at once.
_BURST_SECONDS = 4.0
_LAST_LINES = 20
_LINE = 1_000


def unwritable(error: OSError) -> str:
    """Return the error text of a step whose log cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk of the runs is full; free some space, then resume the run"
    return f"its log cannot be written ({error.strerror})"


def plain(text: str) -> str:
    """Return a text as a terminal shows it at the end: without colours, and with the last state of redrawn lines."""
    text = _SEQUENCES.sub("", text).replace("\r\n", "\n")
    while "\x08" in text and (shorter := _BACKSPACE.sub("", text)) != text:
        text = shorter
    return _CONTROLS.sub("", "\n".join(_redrawn(line) for line in text.split("\n")))


def _redrawn(line: str) -> str:
    return next((state for state in reversed(line.split("\r")) if state.strip()), "") if "\r" in line else line


class BoundedLog:
    """Appends output to a file up to a limit and a rate; the rest is counted, and the log notes how much is missing.

    Time is an argument, in monotonic seconds. Raises OSError when the file cannot be written.
    """

    def __init__(self, path: str, *, limit: int, rate: float, now: float) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        #: The position at the file's end.
        self.size = os.fstat(self._file).st_size
        #: Bytes that were left out of the log.
        self.left_out = 0
        self._limit = max(limit - _TAIL, 0)
        self._rate = rate
        self._tokens = self._burst = rate * _BURST_SECONDS
        self._then = now
        self._omitted_bytes = self._omitted_lines = 0
        self._tail = b""
        self._recent = b""
        self._reported = self.size

    def write(self, data: bytes, now: float) -> None:
        """Append output, or leave it out over a limit."""
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._omitted_bytes and self.size < self._limit and self._tokens >= self._rate:
            self._say_omitted()
        room = int(min(self._limit - self.size, self._tokens))
        if self._omitted_bytes:
            self._omit(data)
        elif len(data) <= room:
            self._put(data)
        else:
            cut = data.rfind(b"\n", 0, max(room, 0)) + 1
            self._put(data[:cut])
            self._omit(data[cut:])

    def note(self, text: str) -> None:
        """Append a line of tidewire's own after all output."""
        self._say_omitted()
        line = text.replace("\n", "\\n")[:_LINE]
        self._put(f"[tidewire] {line}\n".encode(errors="replace"))

    def news(self) -> tuple[int, int, str] | None:
        """Return the newest text since the last call as (from, to, text), or None; older text is in the file alone."""
        start = max(self._reported, self.size - len(self._recent))
        data = self._recent[len(self._recent) - (self.size - start) :] if start < self.size else b""
        if start > self._reported:
            skipped = data.find(b"\n") + 1
            data, start = data[skipped:], start + skipped
        # the last character may be incomplete
        text, length = codecs.utf_8_decode(data, "replace", False)
        if not text:
            return None
        self._reported = start + length
        return start, self._reported, text

    def last_lines(self) -> list[str]:
        """Return the last lines of output."""
        lines = plain((self._recent + self._tail).decode(errors="replace")).split("\n")
        shown = [line for line in lines if line.strip() and not line.startswith("[tidewire] ")]
        return [line[-_LINE:] for line in shown[-_LAST_LINES:]]

    def close(self) -> None:
        """Note how much was left out, and close the file."""
        try:
            self._say_omitted()
        finally:
            os.close(self._file)

    def _omit(self, data: bytes) -> None:
        self._omitted_bytes += len(data)
        self._omitted_lines += data.count(b"\n")
        self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]

    def _say_omitted(self) -> None:
        if not self._omitted_bytes:
            return
        tail = self._tail
        if len(tail) < self._omitted_bytes:
            tail = tail[tail.find(b"\n") + 1 :]
        missing = self._omitted_bytes - len(tail)
        lines = self._omitted_lines - tail.count(b"\n")
        self._omitted_bytes = self._omitted_lines = 0
        self._tail = b""
        if missing:
            self.left_out += missing
            why = "the log is full" if self.size >= self._limit else "they came too fast"
            self._put(f"\n[tidewire] {lines} lines ({missing} bytes) are left out here: {why}\n".encode())
        self._put(tail)

    def _put(self, data: bytes) -> None:
        if not data:
            return
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.size += len(data)
        self._tokens -= len(data)
        self._recent = data[-_RECENT:] if len(data) >= _RECENT else (self._recent + data)[-_RECENT:]
