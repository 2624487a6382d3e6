"""A connection that is made again when it breaks, and the one on which commands are answered."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import (
    AskError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)

from tidewire.backends.redis.driver import Command, Reply, Wire
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable, TidewireError
from tidewire.support.counters import count_limit

__all__ = ("Asked", "Line", "LineDown", "RequestLine", "meaning")

logger = logging.getLogger("tidewire")

#: The longest wait between two attempts to connect, and the longest first one; each is a random part of it.
_LONGEST, _SHORTEST = 2.0, 0.05
#: Seconds between looks for an answer that is overdue.
_SWEEP = 0.1
#: Requests that may wait for an answer on one connection.
ASKED_COUNT = 10_000

#: Errors after which a connection is of no use: its server lost the scripts, or its place.
_FATAL = (NoScriptError, ReadOnlyError, MovedError, AskError, MasterDownError)

Dial = Callable[[], Awaitable[Connection]]


def meaning(error: Reply) -> str:
    """Return what a server does that answers with an error, in words that go on after its name."""
    if isinstance(error, NoScriptError) or "TIDEWIRE" in str(error):
        return "was emptied, or has lost its scripts (FLUSHALL, SCRIPT FLUSH); it is prepared again, try again"
    return f"answers {str(error)!r}"


class LineDown(StoreUnavailable):
    """Nothing was answered: the connection is away (`is_sent`: or broke after the commands were sent)."""

    def __init__(self, reason: str, *, is_sent: bool) -> None:
        super().__init__(reason)
        self.is_sent = is_sent


class Line(ABC):
    """Keeps one connection open: while it is away, everything fails at once, and it is dialled with full jitter."""

    def __init__(self, shown: str, dial: Dial, outage: Outage, patience: float) -> None:
        self._shown = shown
        self._dial = dial
        self._outage = outage
        self._patience = patience
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_open = False
        #: Why it is away.
        self.trouble = "it is not open"

    async def start(self) -> None:
        """Connect; raises StoreUnavailable or ConfigurationError, and then nothing goes on."""
        if self._task is not None:
            return
        try:
            wire = await self._open()
        except BaseException:
            await self._close_wire()
            self._lose("it could not be opened")
            raise
        self._task = asyncio.get_running_loop().create_task(self._keep(wire), name="tidewire-redis")

    def start_soon(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(None), name="tidewire-redis")

    async def aclose(self) -> None:
        """End the connection and everything that waits on it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            await self._close_wire()
            self._lose("it is closed")
            self._outage.forget(self)

    def renew(self, reason: str) -> None:
        """Give the connection up and make a new one."""
        if self._wire is not None:
            self._wire.end(reason)

    @abstractmethod
    async def _prepare(self, wire: Wire) -> None:
        """Do what comes before everything else on a new connection; raises when it cannot be used."""

    @abstractmethod
    def _opened(self) -> None:
        """The connection is ready."""

    @abstractmethod
    def _take(self, reply: Reply) -> None:
        """Take one reply."""

    @abstractmethod
    def _lost(self, reason: str) -> None:
        """Fail what waits for the connection that is lost."""

    async def _open(self) -> Wire:
        try:
            async with asyncio.timeout(self._patience):
                self._wire = wire = Wire(await self._dial(), self._take)
                preparing = asyncio.ensure_future(self._prepare(wire))
                try:
                    either: set[asyncio.Future[Any]] = {preparing, wire.ended}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not preparing.done():
                        raise StoreUnavailable(f"{self._shown} ended the connection: {wire.ended.result()}")
                    preparing.result()
                finally:
                    preparing.cancel()
        except TimeoutError:
            raise StoreUnavailable(f"{self._shown} does not answer within {self._patience:g} s") from None
        self.is_open = True
        self.trouble = ""
        self._outage.ends(self)
        self._opened()
        return wire

    async def _keep(self, wire: Wire | None) -> None:
        attempt = 0
        while True:
            try:
                wire = wire or await self._open()
                attempt = 0
                reason = await asyncio.shield(wire.ended)
            except TidewireError as error:
                reason = str(error)
            except Exception as error:
                logger.exception("a connection to %s failed by a fault of the program", self._shown)
                reason = f"an internal error ({error})"
            wire = None
            self._lose(f"{self._shown}: {reason}" if self._shown not in reason else reason)
            self._outage.begins(self, reason)
            await self._close_wire()
            await asyncio.sleep(random.uniform(0, min(_LONGEST, _SHORTEST * 2**attempt)))
            attempt = min(attempt + 1, 10)

    def _lose(self, reason: str) -> None:
        self.is_open = False
        self.trouble = reason
        self._lost(reason)

    async def _close_wire(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.aclose()


class Asked:
    """Commands that were sent together, and what of their replies has come."""

    __slots__ = ("deadline", "future", "missing", "replies", "skipped")

    def __init__(self, count: int, skipped: int, deadline: float, future: asyncio.Future[list[Reply]]) -> None:
        self.missing = count
        #: Replies at the beginning that nobody waits for.
        self.skipped = skipped
        self.replies: list[Reply] = []
        self.deadline = deadline
        self.future = future


class RequestLine(Line):
    """Asks and is answered, many at once; a server that leaves one unanswered for too long is given up."""

    def __init__(
        self,
        shown: str,
        dial: Dial,
        outage: Outage,
        patience: float,
        prepare: Callable[[RequestLine], Awaitable[None]],
        *,
        opened: Callable[[], None] = lambda: None,
        lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(shown, dial, outage, patience)
        self._prepare_line = prepare
        self._on_opened = opened
        self._on_lost = lost
        self._asked: deque[Asked] = deque()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_overdue = False

    def ask(self, *commands: Command, before: Sequence[Command] = ()) -> asyncio.Future[list[Reply]]:
        """Send commands; the future has their replies, errors among them, or raises LineDown.

        The commands that come `before` them are sent with them, and their replies are not in the answer.
        """
        if not self.is_open:
            raise LineDown(self.trouble, is_sent=False)
        if len(self._asked) >= ASKED_COUNT:
            count_limit("reads_waiting")
            raise LineDown(f"{ASKED_COUNT} requests wait for {self._shown} already; ask for less", is_sent=False)
        return self._ask((*before, *commands), skipped=len(before))

    async def run(self, command: Command, before: Sequence[Command] = ()) -> Reply:
        """Return the reply to one command; raises StoreUnavailable, also for an error."""
        reply = (await self.ask(command, before=before))[0]
        if isinstance(reply, ResponseError):
            raise StoreUnavailable(f"{self._shown} {meaning(reply)}")
        return reply

    async def ask_first(self, *commands: Command) -> list[Reply]:
        """Ask before the connection is open to others, as `prepare` does."""
        return await self._ask(commands)

    def _ask(self, commands: Sequence[Command], *, skipped: int = 0) -> asyncio.Future[list[Reply]]:
        if self._wire is None:
            raise LineDown(self.trouble, is_sent=False)
        loop = asyncio.get_running_loop()
        asked = Asked(len(commands), skipped, loop.time() + self._patience, loop.create_future())
        self._asked.append(asked)
        self._wire.send(commands)
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)
        return asked.future

    def _sweep(self) -> None:
        self._sweeping = None
        was_overdue, self._is_overdue = self._is_overdue, False
        if not self._asked:
            return
        loop = asyncio.get_running_loop()
        if self._asked[0].deadline < loop.time():
            self._is_overdue = True
            if was_overdue:  # twice: when this process itself stood still, answers are there that nobody has taken
                self.renew(f"it did not answer within {self._patience:g} s")
        self._sweeping = loop.call_later(_SWEEP, self._sweep)

    async def _prepare(self, wire: Wire) -> None:
        await self._prepare_line(self)

    def _opened(self) -> None:
        self._on_opened()

    def judge(self, error: ResponseError) -> None:
        """Give the connection up after an error that will not pass."""
        if isinstance(error, _FATAL) or "TIDEWIRE" in str(error):
            self.renew(f"it {meaning(error)}")

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, ResponseError):
            self.judge(reply)
        asked = self._asked[0]
        asked.replies.append(reply)
        asked.missing -= 1
        if not asked.missing:
            self._asked.popleft()
            if not asked.future.done():
                asked.future.set_result(asked.replies[asked.skipped :])

    def _lost(self, reason: str) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        asked, self._asked = self._asked, deque()
        for one in asked:
            if not one.future.done():
                one.future.set_exception(LineDown(reason, is_sent=True))
                one.future.exception()
        self._on_lost(reason)
