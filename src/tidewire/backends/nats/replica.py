"""The presence stream on one session: a roster applies its messages, and a step is done when the roster has it.

The stream keeps one message for each member, lease and claim, the newest. An empty one stands for something that is
gone, and is itself removed when every node must have seen it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

import msgspec
from nats.aio.msg import Msg

from tidewire.backends.base import JoinResult
from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.jetstream import (
    EXPECTED,
    STATUS,
    Ack,
    ConsumerInfo,
    GetAnswer,
    StreamAnswer,
    name_of,
    token_of,
)
from tidewire.backends.nats.roster import Claim, Present, Roster
from tidewire.backends.nats.session import Refused, Session, Unsendable, is_nobody
from tidewire.errors import StoreUnavailable

__all__ = ("CLOSED", "Replica")

#: The lease of a node that was closed: its members are not listed.
CLOSED = False
_CLOSED_BYTES = msgspec.json.encode(CLOSED)
#: Header that names a step, so that its node learns the outcome.
STEP = "Tidewire-Step"
_STALLED = "Nats-Consumer-Stalled"
_NO_STREAM, _WRONG_LAST = 10059, 10071
_MEMBER, _LEASE, _DEPARTURE = "m", "n", "d"
#: Seconds after which a message that says "gone" is removed; a node that was out of touch for the first begins anew.
OUT_OF_TOUCH, GONE_SECONDS = 20.0, 60.0
#: Such messages that are removed at once.
_REMOVED = 1_000

_Result = JoinResult | Claim | bool


class Replica:
    """Applies the presence stream for as long as a session lasts."""

    def __init__(self, session: Session, address: NatsAddress, lease: float, seconds: float) -> None:
        self.session = session
        self.roster = Roster(lease)
        self._address = address
        self._stream = f"{address.stream}_PRESENCE"
        self._seconds = seconds
        #: When the stream was made: another one has not the members of before.
        self.created = ""
        self._applied = 0
        self._delivered = 0
        self._steps: dict[str, asyncio.Future[_Result]] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._name = secrets.token_hex(6)
        self._number = 0
        self._gone: deque[tuple[float, int]] = deque()
        self._in_touch = asyncio.get_running_loop().time()
        #: Told the members that a claim has taken.
        self.on_claimed: Callable[[Claim], None] | None = None

    # Subjects.

    def member(self, channel: str, connection: str) -> str:
        """Return the subject of a member."""
        return f"{self._stream}.{_MEMBER}.{token_of(channel)}.{token_of(connection)}"

    def lease(self, node: str) -> str:
        """Return the subject of a node's lease."""
        return f"{self._stream}.{_LEASE}.{token_of(node)}"

    def departure(self, channel: str, user: str) -> str:
        """Return the subject of a claimed departure."""
        return f"{self._stream}.{_DEPARTURE}.{token_of(channel)}.{token_of(user)}"

    # Reading.

    async def open(self) -> None:
        """Load the stream, and apply its new messages from then on; raises StoreUnavailable."""
        answer = await self._open_stream()
        state, self.created = answer.state, answer.created
        inbox = self.session.new_inbox()
        await self.session.subscribe(inbox, self._arrive)
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "all",
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": 5_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        asked = {"stream_name": self._stream, "config": config}
        consumer = await self.session.api(f"CONSUMER.CREATE.{self._stream}", asked, ConsumerInfo)
        if consumer.error is not None:
            raise Refused("read presence", consumer.error)
        if consumer.num_pending:
            await self._wait(lambda: self._delivered >= consumer.num_pending)
        self._applied = max(self._applied, state.last_seq)

    async def _open_stream(self) -> StreamAnswer:
        config = {
            "name": self._stream,
            "subjects": [f"{self._stream}.*.>"],
            "retention": "limits",
            "storage": "memory",
            "discard": "old",
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msg_size": -1,
            "num_replicas": self._address.replicas,
            "duplicate_window": 1_000_000_000,
        }
        answer = await self.session.api(f"STREAM.INFO.{self._stream}", None, StreamAnswer)
        if answer.error is not None and answer.error.err_code == _NO_STREAM:
            answer = await self.session.api(f"STREAM.CREATE.{self._stream}", config, StreamAnswer)
        if answer.error is not None:
            raise Refused(f"make the stream {self._stream}", answer.error)
        return answer

    async def _wait(self, holds: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        end, seen = loop.time() + self._seconds, -1
        while not holds():
            if self._delivered > seen:  # it goes on: however long that takes
                seen, end = self._delivered, loop.time() + self._seconds
            if loop.time() > end or self.session.ended.is_set():
                raise StoreUnavailable("presence cannot be loaded from NATS: the server stopped sending")
            await asyncio.sleep(0.002)

    async def _arrive(self, msg: Msg) -> None:
        headers = msg.headers or {}
        if STATUS in headers:
            reply = msg.reply or headers.get(_STALLED, "")
            if reply:  # the server waits for this before it sends more
                with contextlib.suppress(Unsendable):
                    await self.session.publish(reply, b"")
            return
        words = msg.reply.split(".")
        skipped = 2 if len(words) > 9 else 0
        sequence, number, time = (int(words[skipped + place]) for place in (5, 6, 7))
        if number != self._delivered + 1:
            self.session.end("presence missed a message")
            return
        self._delivered = number
        result = self._apply(msg, sequence, time / 1e9)
        step = self._steps.pop(headers.get(STEP, ""), None)
        if step is not None and not step.done():
            step.set_result(result)
        self._applied = sequence
        while self._waiting and self._waiting[0][0] <= sequence:
            waiter = heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)

    def _apply(self, msg: Msg, sequence: int, time: float) -> _Result:
        roster = self.roster
        roster.hear(time)
        if not msg.data:
            self._gone.append((asyncio.get_running_loop().time() + GONE_SECONDS, sequence))
        _, kind, *tokens = msg.subject.split(".")
        names = [name_of(token) for token in tokens]
        if kind == _MEMBER:
            if not msg.data:
                return roster.leave(*names)
            return roster.join(msgspec.json.decode(msg.data, type=Present), sequence)
        if kind == _LEASE:
            known = roster.has_lease(names[0])
            if msg.data:
                roster.touch(names[0], sequence, is_closed=msg.data == _CLOSED_BYTES)
            else:
                roster.bury(names[0])
            return known
        if not msg.data:
            roster.forget(*names)
            return True
        claim = roster.claim(msgspec.structs.replace(msgspec.json.decode(msg.data, type=Claim), sequence=sequence))
        if self.on_claimed is not None and not claim.is_void:
            self.on_claimed(claim)
        return claim

    # Steps.

    async def step(self, subject: str, value: object | None, expected: int | None = None) -> _Result | None:
        """Publish one change, and return its outcome in the order of all changes; raises StoreUnavailable.

        A value of None removes it. With `expected`, None is returned when the subject's newest message has another
        sequence; 0 expects that there is none.
        """
        self._number += 1
        name = f"{self._name}{self._number}"
        headers = {STEP: name} if expected is None else {STEP: name, EXPECTED: str(expected)}
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._steps[name] = future
        try:
            data = b"" if value is None else msgspec.json.encode(value)
            msg = await self.session.request(subject, data, headers)
            if is_nobody(msg):
                self.session.end("the presence stream is gone")
                raise StoreUnavailable("the presence stream on NATS is gone; it is made anew")
            ack = msgspec.json.decode(msg.data, type=Ack)
            if ack.error is not None:
                if ack.error.err_code == _WRONG_LAST:
                    return None
                raise Refused("take note of presence", ack.error)
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            self.session.end("presence is not up to date")
            raise StoreUnavailable(f"presence on NATS was not up to date within {self._seconds:g} s") from None
        finally:
            self._steps.pop(name, None)

    async def sync(self) -> None:
        """Return when everything is applied that was said before; raises StoreUnavailable."""
        applied = self._applied
        answer = await self.session.api(f"STREAM.INFO.{self._stream}", None, StreamAnswer)
        if answer.error is not None:
            self.session.end("the presence stream is gone")
            raise Refused("tell of presence", answer.error)
        last = answer.state.last_seq
        if last < applied:
            self.session.end("the presence stream was made anew")
            raise StoreUnavailable("the presence stream on NATS was made anew")
        if last <= self._applied:
            return
        self._number += 1
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (last, self._number, waiter))
        try:
            async with asyncio.timeout(self._seconds):
                await waiter
        except TimeoutError:
            self.session.end("presence is not up to date")
            raise StoreUnavailable(f"presence on NATS was not up to date within {self._seconds:g} s") from None

    async def newest(self, subject: str) -> int | None:
        """Return the sequence of a subject's newest message, 0: there is none; None: it says something."""
        answer = await self.session.api(f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject}, GetAnswer)
        if answer.message is None:
            return 0
        return None if answer.message.data else answer.message.seq

    async def tidy(self) -> None:
        """Remove messages that said "gone" long ago."""
        now = asyncio.get_running_loop().time()
        for _ in range(min(_REMOVED, len(self._gone))):
            if self._gone[0][0] > now:
                return
            asked = msgspec.json.encode({"seq": self._gone.popleft()[1], "no_erase": True})
            with contextlib.suppress(Unsendable):
                await self.session.publish(f"$JS.API.STREAM.MSG.DELETE.{self._stream}", asked)

    def check_touch(self) -> None:
        """Begin anew when this process stood still so long that it may have missed leaves."""
        now = asyncio.get_running_loop().time()
        if now - self._in_touch > OUT_OF_TOUCH:
            self.session.end("this process stood still")
            raise StoreUnavailable("this process stood still; presence is loaded again")
        self._in_touch = now
