"""Asks a server and is answered, many at once, on one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from redis.exceptions import AskError, MasterDownError, MovedError, NoScriptError, ReadOnlyError, ResponseError

from tidewire.backends.redis.connection import Connection, Dial, User
from tidewire.backends.redis.driver import Command, Reply, Session, pack
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable
from tidewire.support.counters import count_limit

__all__ = ("ConnectionLost", "Requests", "meaning")

#: Seconds between looks for an answer that is overdue.
_SWEEP = 0.1
#: Requests that may wait for an answer on one connection.
WAITING_COUNT = 10_000
#: Errors after which a connection is of no use: its server has lost the scripts, or its place.
_FATAL = (NoScriptError, ReadOnlyError, MovedError, AskError, MasterDownError)


def meaning(error: Reply) -> str:
    """Return the meaning of an error that a server answers, in words that go on after its name."""
    if isinstance(error, NoScriptError) or "TIDEWIRE" in str(error):
        why = "FLUSHALL, SCRIPT FLUSH, a maxmemory-policy"
        return f"was emptied, or has lost its scripts or keys ({why}); it is prepared again, try again"
    return f"answers {str(error)!r}"


class ConnectionLost(StoreUnavailable):
    """Raised when nothing was answered: the connection is away, or (`is_sent`) broke after the commands were sent."""

    def __init__(self, reason: str, *, is_sent: bool) -> None:
        super().__init__(reason)
        self.is_sent = is_sent


class _Asked:
    """Commands that were sent together, and the replies to them that have come."""

    __slots__ = ("deadline", "future", "missing", "replies", "skipped")

    def __init__(self, count: int, skipped: int, deadline: float, future: asyncio.Future[list[Reply]]) -> None:
        self.missing = count
        #: Replies at the beginning that nobody waits for.
        self.skipped = skipped
        self.replies: list[Reply] = []
        self.deadline = deadline
        self.future = future

    def take(self, reply: Reply) -> bool:
        """Take the next reply; True when it is the last one."""
        self.replies.append(reply)
        self.missing -= 1
        if self.missing:
            return False
        if not self.future.done():
            self.future.set_result(self.replies[self.skipped :])
        return True


class Requests(User):
    """Sends commands and hands each caller its replies; a server that leaves one unanswered for too long is given up.

    `prepare` is called in each new session before anybody else may ask (by `ask_first`). `is_passing` is asked of each
    error whether it will pass; the connection is renewed after one that does not.
    """

    def __init__(
        self,
        shown: str,
        dial: Dial,
        outage: Outage,
        patience: float,
        prepare: Callable[[Requests], Awaitable[None]],
        *,
        opened: Callable[[], None] = lambda: None,
        lost: Callable[[str], None] = lambda reason: None,
        is_passing: Callable[[ResponseError], bool] = lambda error: False,
    ) -> None:
        self.connection = Connection(shown, dial, outage, patience, self)
        self._prepare = prepare
        self._on_opened = opened
        self._on_lost = lost
        self._is_passing = is_passing
        self._asked: deque[_Asked] = deque()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_overdue = False

    def ask(self, *commands: Command, before: Sequence[Command] = ()) -> asyncio.Future[list[Reply]]:
        """Send commands; the future has their replies, errors among them, or raises ConnectionLost.

        The commands `before` them are sent with them, and their replies are left out of the answer.
        """
        connection = self.connection
        if not connection.is_open:
            raise ConnectionLost(connection.trouble, is_sent=False)
        if len(self._asked) >= WAITING_COUNT:
            count_limit("reads_waiting")
            raise ConnectionLost(
                f"{WAITING_COUNT} requests wait for {connection.shown} already; ask for less", is_sent=False
            )
        return self._ask((*before, *commands), skipped=len(before))

    async def run(self, command: Command) -> Reply:
        """Return the reply to one command; raises StoreUnavailable, also for an error."""
        return self.result(await self.ask(command))

    def result(self, replies: Sequence[Reply]) -> Reply:
        """Return the only reply; raises StoreUnavailable for an error."""
        (reply,) = replies
        if isinstance(reply, ResponseError):
            raise StoreUnavailable(f"{self.connection.shown} {meaning(reply)}")
        return reply

    async def ask_first(self, *commands: Command) -> list[Reply]:
        """Ask before the connection is open to others, as `prepare` does."""
        return await self._ask(commands)

    def _ask(self, commands: Sequence[Command], *, skipped: int = 0) -> asyncio.Future[list[Reply]]:
        session = self.connection.session
        if session is None:
            raise ConnectionLost(self.connection.trouble, is_sent=False)
        packed = pack(commands)  # before anything waits: a value that cannot be packed is this caller's fault alone
        loop = asyncio.get_running_loop()
        asked = _Asked(len(commands), skipped, loop.time() + self.connection.patience, loop.create_future())
        self._asked.append(asked)
        session.send(packed)
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
                self.connection.renew(f"it did not answer within {self.connection.patience:g} s")
        self._sweeping = loop.call_later(_SWEEP, self._sweep)

    def judge(self, error: ResponseError) -> None:
        """Renew the connection after an error that will not pass."""
        if not self._is_passing(error) and (isinstance(error, _FATAL) or "TIDEWIRE" in str(error)):
            self.connection.renew(f"it {meaning(error)}")

    # For the connection.

    async def prepare(self, session: Session) -> None:
        await self._prepare(self)

    def opened(self) -> None:
        self._on_opened()

    def take(self, reply: Reply) -> None:
        if isinstance(reply, ResponseError):
            self.judge(reply)
        if self._asked[0].take(reply):
            self._asked.popleft()

    def lost(self, reason: str) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        asked, self._asked = self._asked, deque()
        for one in asked:
            if not one.future.done():
                one.future.set_exception(ConnectionLost(reason, is_sent=True))
                one.future.exception()
        self._on_lost(reason)
