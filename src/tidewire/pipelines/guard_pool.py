"""Guard processes without a program yet: one is kept ready for the next step, because starting a process is slow."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from tidewire.pipelines import boot
from tidewire.pipelines.environment import environment

__all__ = ("Guards",)

#: Bytes of one message line of a guard.
_LINE = 1_048_576
#: Seconds before the next guard is started, so that a step that begins has the processors for itself.
_LATER = 0.3


class Guards:
    """Starts guards ahead of time. A guard whose stdin ends before it has a program ends by itself."""

    def __init__(self) -> None:
        self._next: asyncio.Task[Process] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """Start a guard unless one is ready."""
        if self._next is None:
            self._next = asyncio.create_task(_start())

    async def take(self) -> Process:
        """Return a guard that waits for its program. Raises OSError."""
        while True:
            self.prepare()
            ready = self._next
            assert ready is not None
            await asyncio.wait([ready])  # when this is cancelled, the guard stays for the next caller
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
        """End the guard that waits."""
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
    # A session of its own: Ctrl+C in the server's terminal must reach the server alone.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-X", "utf8", boot.__file__, "tidewire.pipelines.program_guard"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        limit=_LINE,
        start_new_session=True,
        env=environment(),  # a step could read the environment of its guard
    )
