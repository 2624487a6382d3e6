"""The messages of a program about itself: one JSON object a line, in the descriptor `TIDEWIRE_PROGRESS_FD`.

Standard library only: the guard of a step reads them.
"""

from __future__ import annotations

import json
import re

from tidewire.pipelines.output import plain

__all__ = ("ProgramMessages",)

#: Bytes of one message; of a longer one only the progress counts.
_LONGEST = 65_536
_TEXT = 500
_PROGRESS = re.compile(rb'"progress"\s*:\s*("?[-+.\w]+%?"?)')


class ProgramMessages:
    """Takes the messages of one program; `problem` explains the first one that could not be used."""

    def __init__(self) -> None:
        #: 0 to 1; it never decreases.
        self.fraction = 0.0
        self.message = ""
        self.error = ""
        self.problem = ""
        self._rest = b""
        self._is_percent = False

    def feed(self, data: bytes) -> None:
        """Take bytes of the descriptor."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._take((self._rest + line)[: _LONGEST + 1])
            self._rest = b""
        self._rest = (self._rest + rest)[: _LONGEST + 1]

    def _take(self, line: bytes) -> None:
        if len(line) > _LONGEST:
            self._complain(f"a message of more than {_LONGEST} bytes was cut")
            found = _PROGRESS.search(line)
            line = b'{"progress": %b}' % found[1] if found else b""
        if not line.strip():
            return
        try:
            said = json.loads(line)
            if not isinstance(said, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError):
            self._complain(f"a message is no JSON object: {_text(line.decode(errors='replace'))[:80]!r}")
            return
        if said.get("error") is not None:  # null means no change
            self.error = _text(said["error"])
        if said.get("message") is not None:
            self.message = _text(said["message"])
        if said.get("progress") is not None:
            self._take_progress(said["progress"])

    def _take_progress(self, said: object) -> None:
        text = str(said).strip()
        is_percent = text.endswith("%")
        try:
            value = float(text.rstrip("% ").replace(",", "."))
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= 100.0:
            self._complain(f"progress {text[:40]!r} is no number from 0 to 1, and no percentage")
            return
        if value == 1.0 and not is_percent and not self._is_percent and not self.fraction:
            return  # all, or the first percent: later output shows
        self._is_percent = self._is_percent or value > 1.0 or is_percent
        self.fraction = max(self.fraction, value / 100.0 if self._is_percent else value)

    def _complain(self, problem: str) -> None:
        self.problem = self.problem or problem


def _text(said: object) -> str:
    return plain(str(said).encode(errors="replace").decode())[:_TEXT]  # half of a surrogate pair cannot be encoded
