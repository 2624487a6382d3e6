"""Moments at which small work is done together, the same ones in all processes of a machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ("Beats",)

#: The part of a beat by which `send` comes before it, and the seconds by which a timer may be early.
_LEAD, _EARLY = 0.2, 0.001


class Beats:
    """Calls `send`, so that others have it in time, and at the next beat `push`; after a pause both in the next turn.

    Beats are so many seconds apart by the monotonic clock, which the processes of a machine share; 0: one for each turn
    of the loop. `push` says by `end` that it has done all; until then it is not called again.
    """

    __slots__ = ("_ended_at", "_is_asked", "_loop", "_push", "_seconds", "_send")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, send: Callable[[], None], push: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._send = send
        self._push = push
        self._is_asked = False
        self._ended_at = 0.0

    def ask(self) -> None:
        """Call both soon, once for all who have asked by then."""
        if self._is_asked:
            return
        self._is_asked = True
        now, beat = self._loop.time(), self._seconds
        if now - self._ended_at >= beat:
            self._loop.call_soon(self._begin, 0.0)
            return
        wait, lead = beat + _EARLY - (now + _EARLY) % beat, beat * _LEAD
        if wait > lead:
            self._loop.call_later(wait - lead, self._begin, lead)
        else:  # too late to send anything before
            self._loop.call_later(wait, self._push)

    def _begin(self, lead: float) -> None:
        self._send()
        if lead:
            self._loop.call_later(lead, self._push)
        else:
            self._push()

    def end(self) -> None:
        """Note that everything has been pushed."""
        self._is_asked = False
        self._ended_at = self._loop.time()
