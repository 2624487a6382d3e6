"""Guards before they have a program: one waits for the next step, as starting a process takes longer than many do."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from tidewire.pipelines import boot

__all__ = ("Guards",)

#: Bytes of one line of a guard.
_LINE = 1_048_576
#: Seconds after which the next one is started: a step that begins has the processors for itself.
_LATER = 0.3


class Guards:
    """Starts guards, each a little before it is wanted; one whose stdin ends before it has a program ends by itself."""

    def __init__(self) -> None:
        self._next: asyncio.Task[Process] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """Have one ready soon."""
        if self._next is None:
            self._next = asyncio.create_task(_start())

    async def take(self) -> Process:
        """Return a guard that waits for its program. Raises OSError."""
        while True:
            self.prepare()
            ready = self._next
            assert ready is not None
            await asyncio.wait([ready])  # cancelled, it is left for the next who asks
            if self._next is ready:
                self._next = None
                guard = ready.result()
                if guard.returncode is None:
                    break
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER, self._prepare_later)
        return guard

    def _prepare_later(self) -> None:
        self._timer = None
        self.prepare()

    async def aclose(self) -> None:
        """End the one that waits."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._next = self._next, None
        if waiting is not None:
            await asyncio.wait([waiting])
            if waiting.exception() is None:
                guard = waiting.result()
                assert guard.stdin is not None
                guard.stdin.close()
                await guard.wait()


async def _start() -> Process:
    # Its own session: Ctrl+C in the server's terminal is the server's affair.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", boot.__file__, "tidewire.pipelines.program_guard"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        limit=_LINE,
        start_new_session=True,
    )
