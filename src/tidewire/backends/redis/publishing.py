"""Publishes by one connection: what waits goes in one script call; in a cluster, in one for each channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain

from redis.exceptions import ResponseError

from tidewire.backends.redis.connection import LineDown, meaning
from tidewire.backends.redis.driver import Command, Reply
from tidewire.backends.redis.entries import pack
from tidewire.backends.redis.generations import SCRIPTS, GuardedLine
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.opening import new_epoch
from tidewire.backends.shared.waiting import check_room, settle
from tidewire.errors import NotPublished, PublishError, PublishUnconfirmed
from tidewire.messages import Position, PublishRequest

__all__ = ("Write", "Writer")

#: What one pipeline takes at most, and how many are under way at once.
_BATCH_COUNT = 1_000
_BATCH_BYTES = 1_048_576
_UNDER_WAY = 2
#: Bytes that a publish costs beside its data, about.
_COST = 256
#: Seconds between looks for publishes that waited too long.
_SWEEP = 0.1
#: The part of a publish's time in which replicas must have it.
_WAIT_SHARE = 0.75
#: The longest age that a key's life is made of, in seconds.
_LONGEST_AGE = 1e10


class Write:
    """One publish on its way."""

    __slots__ = ("body", "deadline", "future", "is_sent", "request", "size")

    def __init__(self, request: PublishRequest, future: asyncio.Future[Position], deadline: float) -> None:
        self.request = request
        self.body = pack(request)
        self.size = len(self.body) + _COST
        self.future = future
        self.deadline = deadline
        self.is_sent = False


#: What one script call publishes: of each channel, some.
_Call = Sequence[Sequence[Write]]


class Writer:
    """Owns the publishes of one connection, in the order in which they were submitted."""

    def __init__(
        self, line: GuardedLine, shown: str, keys: Keys, seconds: float, *, wait: int, is_cluster: bool
    ) -> None:
        self._line = line
        self._shown = shown
        self._keys = keys
        self._seconds = seconds
        self._wait = wait
        self._is_cluster = is_cluster
        self._waiting: deque[Write] = deque()
        self._open: deque[Write] = deque()
        self._count = 0
        self._bytes = 0
        self._under_way = 0
        self._is_flushing = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, request: PublishRequest) -> asyncio.Future[Position]:
        """Take a publish; raises NotPublished at once while the store is away, or when too many wait."""
        line = self._line
        if not line.is_open:
            raise NotPublished(f"not published: {line.trouble}")
        check_room(self._count, self._bytes, self._shown)
        loop = asyncio.get_running_loop()
        write = Write(request, loop.create_future(), loop.time() + self._seconds)
        self._count += 1
        self._bytes += write.size
        self._idle.clear()
        self._waiting.append(write)
        self._open.append(write)
        if not self._is_flushing:
            self._is_flushing = True
            loop.call_soon(self._flush)
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)
        return write.future

    async def wait_idle(self) -> None:
        """Return when nothing waits any more."""
        await self._idle.wait()

    def lost(self, reason: str) -> None:
        """Fail what was not sent; the connection is away."""
        waiting, self._waiting = self._waiting, deque()
        for write in waiting:
            self._settle(write, NotPublished(f"not published: {reason}"))

    def close(self) -> None:
        """Stop looking for what waited too long."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    # Sending.

    def _flush(self) -> None:
        self._is_flushing = False
        while self._waiting and self._under_way < _UNDER_WAY and self._line.is_open:
            groups = self._take()
            if not groups:
                return
            calls = [[group] for group in groups.values()] if self._is_cluster else [list(groups.values())]
            commands = [self._command(call) for call in calls]
            if self._wait:
                commands.append(["WAIT", self._wait, int(self._seconds * _WAIT_SHARE * 1e3)])
            try:
                asked = self._line.ask(*commands, before=self._line.guards(groups))
            except LineDown as error:
                self._fail(_all(calls), NotPublished(f"not published: {error}"))
                return
            self._under_way += 1
            asked.add_done_callback(lambda done, calls=calls: self._answered(calls, done))  # type: ignore[misc]

    def _take(self) -> dict[str, list[Write]]:
        """Take the next pipeline's publishes, by channel; who has given up by now publishes nothing."""
        groups: dict[str, list[Write]] = {}
        count = size = 0
        while self._waiting and count < _BATCH_COUNT and size < _BATCH_BYTES:
            write = self._waiting.popleft()
            if write.future.done():
                self._release(write)
                continue
            write.is_sent = True
            count += 1
            size += write.size
            group = groups.get(write.request.channel)
            if group is None:
                groups[write.request.channel] = [write]
            else:
                group.append(write)
        return groups

    def _command(self, call: _Call) -> Command:
        keys = [self._keys.channel(call[0][0].request.channel)[0]]
        command: list[str | bytes | int] = [new_epoch()]
        for writes in call:
            channel = writes[0].request.channel
            keys += self._keys.channel(channel)[1:]
            before = len(keys)
            retention = None
            ages: list[str | bytes | int] = []
            for write in writes:
                request = write.request
                retention = request.retention or retention
                if request.key:
                    keys.append(self._keys.once(channel, request.key))
                ages.append(max(1, int(min(request.key_age, _LONGEST_AGE) * 1e3)) if request.key else 0)
            size, age = ("", "") if retention is None else (retention.size, str(min(retention.age, _LONGEST_AGE)))
            command += (self._keys.carried(channel), size, age, len(writes), len(keys) - before)
            command += [write.body for write in writes]
            if len(keys) > before:
                command += ages
        return ["EVALSHA", SCRIPTS["publish"].sha, len(keys), *keys, *command]

    # Answers.

    def _answered(self, calls: Sequence[_Call], asked: asyncio.Future[list[Reply]]) -> None:
        self._under_way -= 1
        error = asked.exception()
        if error is not None:
            self._fail(_all(calls), _unconfirmed(str(error)))
        else:
            replies = asked.result()
            doubt = self._too_few(replies.pop()) if self._wait else None
            for call, reply in zip(calls, replies, strict=True):
                answers = reply if isinstance(reply, list) else [reply] * len(call)
                for writes, answer in zip(call, answers, strict=True):
                    if isinstance(answer, ResponseError) and answer is not reply:
                        self._line.judge(answer)
                    self._settle_group(writes, answer, doubt)
        if not self._is_flushing:
            self._flush()

    def _too_few(self, reply: Reply) -> PublishError | None:
        """Say that too few replicas have what was published, if it is so."""
        if isinstance(reply, int) and reply >= self._wait:
            return None
        return _unconfirmed(f"{reply} replicas of {self._shown} have it, and wait={self._wait} asks for {self._wait}")

    def _settle_group(self, writes: Sequence[Write], reply: Reply, doubt: PublishError | None) -> None:
        if not isinstance(reply, list):
            error = f"{self._shown} {meaning(reply)}"
            is_sure = isinstance(reply, ResponseError) and not str(reply).startswith("UNSURE")
            return self._fail(writes, NotPublished(f"not published: {error}") if is_sure else _unconfirmed(error))
        if doubt is not None:
            return self._fail(writes, doubt)
        epoch = reply[0].decode()
        for write, offset in zip(writes, reply[1:], strict=True):
            self._settle(write, Position(offset, epoch))
        return None

    def _fail(self, writes: Iterable[Write], error: PublishError) -> None:
        for write in writes:
            self._settle(write, error)

    def _settle(self, write: Write, result: Position | PublishError) -> None:
        self._release(write)
        settle(write.future, result)

    def _release(self, write: Write) -> None:
        self._count -= 1
        self._bytes -= write.size
        if not self._count:
            self._idle.set()

    def _sweep(self) -> None:
        """Fail the publishes that waited too long; they are in the order of their deadlines."""
        loop = asyncio.get_running_loop()
        self._sweeping = None
        now = loop.time()
        while self._open and (self._open[0].future.done() or self._open[0].deadline <= now):
            write = self._open.popleft()
            if not write.future.done():
                write.future.set_exception(self._late(write))
        if self._open:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)

    def _late(self, write: Write) -> PublishError:
        reason = f"{self._shown} did not answer within {self._seconds:g} s"
        return _unconfirmed(reason) if write.is_sent else NotPublished(f"not published: {reason}")


def _all(calls: Sequence[_Call]) -> Iterable[Write]:
    return chain.from_iterable(chain.from_iterable(calls))


def _unconfirmed(reason: str) -> PublishUnconfirmed:
    return PublishUnconfirmed(f"not confirmed: {reason}; publish it again with the same key")
