"""Rate-limited logging, for lines that clients could write into the log as often as they like."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ("LogLimit",)

#: Kinds that are told apart; any kind beyond them counts as one more.
_KINDS = 50


class LogLimit:
    """Allows one line of each kind in so many seconds; each says how many were left out since the one before."""

    __slots__ = ("_clock", "_kinds", "_seconds")

    def __init__(self, seconds: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        #: When the next line is due, and how many were left out.
        self._kinds: dict[str, tuple[float, int]] = {}

    def due(self, kind: str = "") -> str | None:
        """Return the text for the end of a line of this kind, or None when the line is to be left out."""
        now = self._clock()
        if kind not in self._kinds and len(self._kinds) >= _KINDS:
            self._kinds = {known: state for known, state in self._kinds.items() if state[0] > now}
            kind = kind if len(self._kinds) < _KINDS else ""
        until, left_out = self._kinds.get(kind, (now, 0))
        if now < until:
            self._kinds[kind] = until, left_out + 1
            return None
        self._kinds[kind] = now + self._seconds, 0
        return f" (and {left_out} more since the last line)" if left_out else ""
