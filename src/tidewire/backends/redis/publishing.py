"""Publishes by one connection: everything that waits goes in one script call; in a cluster, in one for each channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from redis.exceptions import ResponseError

from tidewire.backends.redis.driver import Command, Reply
from tidewire.backends.redis.entries import pack
from tidewire.backends.redis.generations import SCRIPTS, ChannelRequests
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.known_tops import KnownTops
from tidewire.backends.redis.opening import new_epoch
from tidewire.backends.redis.requests import ConnectionLost, meaning
from tidewire.backends.shared.waiting import WaitingRoom, Write, not_published, unconfirmed
from tidewire.errors import PublishError
from tidewire.messages import Position, PublishRequest

__all__ = ("Publishing",)

#: The most that one pipeline takes, and how many pipelines may be unanswered at once.
_BATCH_COUNT = 1_000
_BATCH_BYTES = 1_048_576
_IN_FLIGHT = 2
#: The part of a publish's time in which replicas must have it.
_WAIT_SHARE = 0.75
#: The longest age that a key's life is made of, in seconds.
_LONGEST_AGE = 1e10


#: The publishes of one script call: of each channel, some.
_Call = Sequence[Sequence[Write]]
_Known = Mapping[str, Position | None]


class Publishing:
    """Sends the publishes of one connection, in the order in which they were submitted."""

    def __init__(
        self,
        requests: ChannelRequests,
        shown: str,
        keys: Keys,
        seconds: float,
        *,
        wait: int,
        is_cluster: bool,
        tops: KnownTops,
    ) -> None:
        self._requests = requests
        self._shown = shown
        self._keys = keys
        self._seconds = seconds
        self._wait = wait
        self._is_cluster = is_cluster
        self._tops = tops
        self._room = WaitingRoom[Write](shown, hand_over=self._put, late=self._late)
        self._unsent: deque[Write] = deque()
        self._in_flight = 0

    def submit(self, request: PublishRequest) -> asyncio.Future[Position]:
        """Take a publish; raises NotPublished at once while the store is away, or when too many wait."""
        if not self._requests.is_open:
            raise not_published(self._requests.requests.connection.trouble)
        return self._room.enter(Write(request, self._seconds))

    async def wait_empty(self) -> None:
        """Return when nothing waits any more."""
        await self._room.wait_empty()

    def lost(self, reason: str) -> None:
        """Fail everything that was not sent; the connection is away."""
        unsent, self._unsent = self._unsent, deque()
        self._room.fail(unsent, not_published(reason))

    def close(self) -> None:
        """Stop to look for late publishes."""
        self._room.close()

    # Sending.

    def _put(self, writes: Sequence[Write]) -> None:
        self._unsent.extend(writes)
        self._send()

    def _send(self) -> None:
        while self._unsent and self._in_flight < _IN_FLIGHT:
            groups = self._take()
            if not groups:
                return
            calls = [[group] for group in groups.values()] if self._is_cluster else [list(groups.values())]
            commands = [self._command(call) for call in calls]
            if self._wait:
                commands.append(["WAIT", self._wait, int(self._seconds * _WAIT_SHARE * 1e3)])
            try:
                asked = self._requests.ask(groups, *commands)
            except ConnectionLost as error:
                self._room.fail(_all(calls), not_published(str(error)))
                continue
            self._in_flight += 1
            known = {channel: self._tops.get(channel) for channel in groups}
            asked.add_done_callback(
                lambda done, calls=calls, known=known: self._answered(calls, known, done)  # type: ignore[misc]
            )

    def _take(self) -> dict[str, list[Write]]:
        """Take the publishes of the next pipeline, by channel; those that their callers have given up are left out."""
        groups: dict[str, list[Write]] = {}
        count = size = 0
        while self._unsent and count < _BATCH_COUNT and size < _BATCH_BYTES:
            write = self._unsent.popleft()
            if write.future.done():
                self._room.release(write)
                continue
            write.sent()
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
            command += (self._keys.pubsub(channel), size, age, len(writes), len(keys) - before)
            command += [pack(write.request) for write in writes]
            if len(keys) > before:
                command += ages
        return ["EVALSHA", SCRIPTS["publish"].sha, len(keys), *keys, *command]

    # Answers.

    def _answered(self, calls: Sequence[_Call], known: _Known, asked: asyncio.Future[list[Reply]]) -> None:
        self._in_flight -= 1
        error = asked.exception()
        if error is not None:
            self._room.fail(_all(calls), unconfirmed(str(error)))
        else:
            replies = asked.result()
            doubt = self._too_few(replies.pop()) if self._wait else None
            for call, reply in zip(calls, replies, strict=True):
                answers = reply if isinstance(reply, list) else [reply] * len(call)
                for writes, answer in zip(call, answers, strict=True):
                    if isinstance(answer, ResponseError) and answer is not reply:
                        self._requests.requests.judge(answer)
                    self._settle_group(writes, answer, doubt)
                    self._note(writes, answer, known)
        self._send()

    def _too_few(self, reply: Reply) -> PublishError | None:
        """Return the error of publishes that too few replicas have, None when enough have them."""
        if isinstance(reply, int) and reply >= self._wait:
            return None
        return unconfirmed(f"{reply} replicas of {self._shown} have it, and wait={self._wait} asks for {self._wait}")

    def _settle_group(self, writes: Sequence[Write], reply: Reply, doubt: PublishError | None) -> None:
        if not isinstance(reply, list):
            error = f"{self._shown} {meaning(reply)}"
            is_sure = isinstance(reply, ResponseError) and not str(reply).startswith("UNSURE")
            self._room.fail(writes, not_published(error) if is_sure else unconfirmed(error))
        elif doubt is not None:
            self._room.fail(writes, doubt)
        else:
            epoch = reply[0].decode()
            for write, offset in zip(writes, reply[1:], strict=True):
                self._room.settle(write, Position(offset, epoch))

    def _note(self, writes: Sequence[Write], reply: Reply, known: _Known) -> None:
        """Note how far a channel has come; the offset of a known key says nothing of that."""
        if isinstance(reply, list) and not writes[-1].request.key:
            channel = writes[-1].request.channel
            before = known[channel]
            # kept publications come after the top that was known before
            least = None if before is None else Position(before.offset + 1, before.epoch)
            self._tops.take(channel, Position(reply[-1], reply[0].decode()), least)

    def _late(self, write: Write) -> PublishError:
        reason = f"{self._shown} did not answer within {self._seconds:g} s"
        return unconfirmed(reason) if write.is_sent else not_published(reason)


def _all(calls: Sequence[_Call]) -> Iterable[Write]:
    return chain.from_iterable(chain.from_iterable(calls))
