"""The state of a channel, as its application tells it: asked once for all who wait, with its position."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tidewire.errors import CommandError, StateFailed, StoreUnavailable
from tidewire.history.shared_reads import Spawn
from tidewire.messages import Position
from tidewire.options import Limits
from tidewire.support.counters import count_limit

__all__ = ("MakeState", "State", "States")

logger = logging.getLogger("tidewire")

#: Asks the application; returns its value, and that as JSON.
MakeState = Callable[[], Awaitable[tuple[Any, bytes]]]
#: Seconds after its last use for which a state is given again where nothing was published since; a crowd of so many
#: is given it for longer, and for a moment even though something was.
_AGAIN_SECONDS, _CROWD, _CROWD_SECONDS = 0.1, 8, 1.0
#: The greatest age of a state that is given again: where nothing was published since, and where something was.
_QUIET_SECONDS, _BUSY_SECONDS = 30.0, 0.5


class State(msgspec.Struct, frozen=True):
    """The state of a channel at a position: everything that is published after it may change that.

    `value` is what the application's function returned, and all who are given it share it; `data` is that as JSON.
    """

    value: Any
    position: Position
    data: bytes = b""

    def reaches(self, position: Position) -> bool:
        """Return whether the publications up to a position are part of this state."""
        return self.position.epoch == position.epoch and self.position.offset >= position.offset


class _Run:
    """One call of the application's function."""

    __slots__ = ("answer", "began", "position", "used", "users")

    def __init__(self, position: Position, began: float) -> None:
        self.position = position
        self.began = self.used = began
        self.users = 0
        self.answer: asyncio.Task[State | Exception] | None = None

    def is_good(self, position: Position, now: float) -> bool:
        """Return whether one more may use it, whose channel stands at a position."""
        answer = self.answer
        if answer is None or not answer.done():
            return True
        if answer.cancelled() or isinstance(answer.result(), Exception) or self.position.epoch != position.epoch:
            return False
        is_quiet, is_crowd = self.position == position, self.users >= _CROWD
        if now - self.began >= (_QUIET_SECONDS if is_quiet else _BUSY_SECONDS) or not (is_quiet or is_crowd):
            return False
        return now - self.used < (_CROWD_SECONDS if is_crowd else _AGAIN_SECONDS)


class States:
    """Asks for the states of channels, single-flight: callers during a question share its answer.

    When many return at once, the application is asked once, as long as its answer holds for them.
    """

    def __init__(self, spawn: Spawn, limits: Limits) -> None:
        self._spawn = spawn
        self._limits = limits
        self._runs: dict[str, _Run] = {}

    async def current(
        self, channel: str, make: MakeState, at: Callable[[], Position], *, after: Position | None = None
    ) -> State:
        """Return the state of a channel that stands `at` a position; not one from before `after`.

        The position is taken before the application is asked. Raises StateFailed, and the CommandError that the
        application raises.
        """
        loop = asyncio.get_running_loop()
        while True:
            run = self._runs.get(channel)
            if run is None or not run.is_good(at(), loop.time()):
                run = self._begin(channel, make, at(), loop)
            run.used, run.users = loop.time(), run.users + 1
            assert run.answer is not None
            found = await asyncio.shield(run.answer)
            if isinstance(found, Exception):
                raise found
            if after is None or found.reaches(after):
                return found
            if self._runs.get(channel) is run:
                del self._runs[channel]

    def _begin(self, channel: str, make: MakeState, position: Position, loop: asyncio.AbstractEventLoop) -> _Run:
        run = self._runs[channel] = _Run(position, loop.time())
        run.answer = self._spawn(self._ask(channel, make, position))
        if run.answer is None:
            del self._runs[channel]
            raise StoreUnavailable(f"the state of {channel!r} cannot be asked for: this node is closed")
        run.answer.add_done_callback(lambda _: loop.call_later(_QUIET_SECONDS, self._forget, channel, run))
        return run

    async def _ask(self, channel: str, make: MakeState, position: Position) -> State | Exception:
        seconds = self._limits.state_seconds
        try:
            async with asyncio.timeout(seconds):
                value, data = await make()
        except CommandError as error:
            return error
        except TimeoutError:
            count_limit("state_seconds")
            logger.error("the state of channel %r took longer than %g s (state_seconds)", channel, seconds)
        except Exception:
            logger.exception("the state of channel %r cannot be made; its subscribers get error 100", channel)
        else:
            return State(value, position, data)
        return StateFailed(f"the state of {channel!r} cannot be made; see the server's log")

    def _forget(self, channel: str, run: _Run) -> None:
        if self._runs.get(channel) is run:
            del self._runs[channel]
