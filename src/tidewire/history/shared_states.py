"""The state of a channel, as its application tells it: asked once for all who wait, with its position."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tidewire.errors import CommandError, ConfigurationError, StateFailed, StoreUnavailable
from tidewire.history.shared_reads import Spawn
from tidewire.limits import Limits
from tidewire.messages import Position
from tidewire.support.counters import count_limit
from tidewire.support.log_limit import LogLimit

__all__ = ("MakeState", "State", "States")

logger = logging.getLogger("tidewire")

#: Asks the application; returns its value, and that as JSON.
MakeState = Callable[[], Awaitable[tuple[Any, bytes]]]
#: Seconds after its last use for which a state is given again where nothing was published since; a crowd of so many
#: is given it for longer, and for a moment even though something was.
_AGAIN_SECONDS, _CROWD, _CROWD_SECONDS = 0.1, 8, 1.0
#: The greatest age of a state that is given again: where nothing was published since, and where something was.
_QUIET_SECONDS, _BUSY_SECONDS = 30.0, 0.5
#: Seconds for which a failure is given again to a crowd, that would ask as often as all of it come back.
_FAILED_SECONDS = 0.5


class State(msgspec.Struct, frozen=True):
    """The state of a channel at a position: everything that is published after it may change that.

    `value` is the result of the application's function, shared by all that are given it; `data` is the same as JSON.
    """

    value: Any
    position: Position
    data: bytes = b""

    def reaches(self, position: Position) -> bool:
        """Return whether the publications up to a position are part of this state."""
        return self.position.epoch == position.epoch and self.position.offset >= position.offset


class _Run:
    """One call of the application's function."""

    __slots__ = ("answer", "began", "ended", "position", "used", "users")

    def __init__(self, position: Position, began: float, users: int) -> None:
        self.position = position
        self.began = self.used = self.ended = began
        self.users = users
        self.answer: asyncio.Task[State | Exception] | None = None

    def is_good(self, position: Position, now: float) -> bool:
        """Return whether another caller may use it, while its channel is at a position."""
        answer = self.answer
        if answer is None or not answer.done():
            return True
        if answer.cancelled():
            return False
        is_quiet, is_crowd = self.position == position, self.users >= _CROWD
        if self.has_failed:
            return is_crowd and now - self.ended < _FAILED_SECONDS
        if self.position.epoch != position.epoch:
            return False
        if now - self.began >= (_QUIET_SECONDS if is_quiet else _BUSY_SECONDS) or not (is_quiet or is_crowd):
            return False
        return now < self.kept_until

    @property
    def has_failed(self) -> bool:
        answer = self.answer
        return (
            answer is not None and answer.done() and not answer.cancelled() and isinstance(answer.result(), Exception)
        )

    @property
    def kept_until(self) -> float:
        """The time until which its answer may be given again, if nobody takes it before."""
        if self.has_failed:
            return max(self.ended, self.used) + _CROWD_SECONDS
        return self.used + (_CROWD_SECONDS if self.users >= _CROWD else _AGAIN_SECONDS)


class States:
    """Asks for the states of channels, single-flight: callers during a question share its answer.

    When many return at once, the application is asked once, as long as its answer holds for them.
    """

    def __init__(self, spawn: Spawn, limits: Limits) -> None:
        self._spawn = spawn
        self._limits = limits
        self._runs: dict[str, _Run] = {}
        self._log_limit = LogLimit()

    async def current(
        self, channel: str, make: MakeState, at: Callable[[], Position], *, after: Position | None = None
    ) -> State:
        """Return the state of a channel that stands `at` a position; not one from before `after`.

        Where the channel has another epoch than `after` by now, its present one counts. The position is taken before
        the application is asked. Raises StateFailed, and the CommandError that the application raises.
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
                raise found.with_traceback(None)  # many raise it, and none needs the frames of the others
            if after is None or found.reaches(after) or after.epoch != found.position.epoch == at().epoch:
                return found
            if self._runs.get(channel) is run:
                del self._runs[channel]

    def _begin(self, channel: str, make: MakeState, position: Position, loop: asyncio.AbstractEventLoop) -> _Run:
        before = self._runs.get(channel)
        crowd = before.users if before is not None and before.has_failed else 0
        run = self._runs[channel] = _Run(position, loop.time(), crowd)
        run.answer = self._spawn(self._ask(channel, make, position))
        if run.answer is None:
            del self._runs[channel]
            raise StoreUnavailable(f"the state of {channel!r} cannot be asked for: this node is closed")
        run.answer.add_done_callback(lambda _: self._ended(channel, run, loop))
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
            if (more := self._log_limit.due(channel)) is not None:
                logger.error("the state of channel %r took longer than %g s (state_seconds)%s", channel, seconds, more)
        except Exception as error:
            if (more := self._log_limit.due(f"{channel} {type(error).__name__}")) is not None:
                is_said = isinstance(error, ConfigurationError)  # its words are for the developer
                logger.error(
                    "the state of channel %r cannot be made%s; its subscribers get error 100%s",
                    *(channel, f": {error}" if is_said else "", more),
                    exc_info=not is_said,
                )
        else:
            return State(value, position, data)
        return StateFailed(f"the state of {channel!r} cannot be made; see the server's log")

    def _ended(self, channel: str, run: _Run, loop: asyncio.AbstractEventLoop) -> None:
        run.ended = loop.time()
        self._forget(channel, run, loop)

    def _forget(self, channel: str, run: _Run, loop: asyncio.AbstractEventLoop) -> None:
        """Remove a state that nobody would be given any more, now or as soon as it is that old: it may be large."""
        if self._runs.get(channel) is not run:
            return
        if loop.time() >= run.kept_until:
            del self._runs[channel]
        else:
            loop.call_at(run.kept_until, self._forget, channel, run, loop)
