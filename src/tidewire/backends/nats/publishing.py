"""Publishes on their way: in the order in which they were entered, many in flight, each answered or told why not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from nats.aio.msg import Msg

from tidewire.backends.nats.jetstream import MESSAGE_ID, Ack, Stamp, fingerprint
from tidewire.backends.nats.publication_stream import WINDOW_SECONDS, Stream
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.nats.session import Unsendable, is_nobody
from tidewire.backends.shared.waiting import check_room, settle
from tidewire.errors import NotPublished, PublishError, PublishUnconfirmed
from tidewire.messages import Position, PublishRequest

__all__ = ("Publishing", "Write")

#: Publishes that the server has not answered, at which no more are sent.
IN_FLIGHT = 8_192
#: Seconds between looks for publishes that waited too long.
_SWEEP = 0.1

_decode = msgspec.json.Decoder(Ack).decode


class Write:
    """One publish and who waits for it."""

    __slots__ = ("deadline", "future", "generation", "is_sent", "request", "size")

    def __init__(self, request: PublishRequest, future: asyncio.Future[Position], deadline: float) -> None:
        self.request = request
        self.future = future
        self.deadline = deadline
        self.size = len(request.data) + len(request.meta)
        self.is_sent = False
        #: The offset at which the same key was kept before its window was over.
        self.generation = 0


class Publishing:
    """Takes publishes, and sends them by one task for as long as a session lasts."""

    def __init__(
        self,
        seconds: float,
        clock: StoreClock,
        *,
        is_expired: Callable[[Stream, Write, int], Awaitable[bool]],
        failed: Callable[[str], None],
        kept: Callable[[int, float], None],
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._is_expired = is_expired
        self._failed = failed
        self._kept = kept
        self._waiting: dict[Write, None] = {}
        self._waiting_bytes = 0
        self._unsent: deque[Write] = deque()
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._in_flight = 0
        #: When the server answered last, or was first asked since; and that this was long ago when last looked.
        self._heard = 0.0
        self._is_silent = False
        self._sender: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    def submit(self, request: PublishRequest) -> asyncio.Future[Position]:
        """Take a publish; raises NotPublished."""
        check_room(len(self._waiting), self._waiting_bytes, "NATS")
        if request.key and request.key_age > WINDOW_SECONDS:
            raise NotPublished(
                f"key_age={request.key_age:g} is more than the {WINDOW_SECONDS:g} s for which NATS remembers keys"
            )
        loop = asyncio.get_running_loop()
        write = Write(request, loop.create_future(), loop.time() + self._seconds)
        self._waiting[write] = None
        self._waiting_bytes += write.size
        self._unsent.append(write)
        self._wanted.set()
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)
        return write.future

    def open(self, stream: Stream) -> None:
        """Send by this stream from now on."""
        self._in_flight = 0
        self._sender = asyncio.get_running_loop().create_task(self._send_all(stream), name="tidewire-nats-sender")

    def lost(self, reason: str) -> None:
        """End every publish: what was sent may be kept or not, the rest is not."""
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._unsent.clear()
        for write in tuple(self._waiting):
            self._settle(write, _lost(write, reason))

    async def aclose(self) -> None:
        """Wait until all that was taken is answered, and end."""
        futures = [write.future for write in self._waiting if not write.future.done()]
        if futures:
            await asyncio.wait(futures, timeout=self._seconds + 2 * _SWEEP)
        self.lost("the broker was closed")
        for task in self._asking:
            task.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    # Sending.

    async def _send_all(self, stream: Stream) -> None:
        subjects: dict[str, str] = {}
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._unsent:
                while self._in_flight >= IN_FLIGHT:
                    self._answered.clear()
                    await self._answered.wait()
                if not self._unsent:
                    break
                write = self._unsent.popleft()
                if write.future.done():
                    self._drop(write)
                    continue
                channel = write.request.channel
                subject = subjects.get(channel)
                if subject is None:
                    if len(subjects) >= 10_000:
                        subjects.clear()
                    subject = subjects[channel] = stream.stored(channel)
                await self._send(stream, write, subject)

    async def _send(self, stream: Stream, write: Write, subject: str) -> None:
        loop = asyncio.get_running_loop()
        request, time = write.request, self._clock.now()
        headers = Stamp.headers_of(request, time)
        if request.key:
            headers[MESSAGE_ID] = fingerprint(request.channel, request.key, str(write.generation))

        def answer(msg: Msg | None) -> None:
            self._in_flight -= 1
            self._heard = loop.time()
            self._answered.set()
            if msg is not None:
                self._take(stream, write, msg, time)

        write.is_sent = True
        if not self._in_flight:
            self._heard = loop.time()
        self._in_flight += 1
        try:
            await stream.session.publish(subject, request.data, headers, answer)
        except Unsendable as error:
            self._in_flight -= 1
            self._settle(write, NotPublished(f"not published: {error}"))

    def _take(self, stream: Stream, write: Write, msg: Msg, time: float) -> None:
        if is_nobody(msg):
            self._settle(write, NotPublished("not published: the stream is gone, or has another epoch; try again"))
            self._failed("the stream is gone, or has another epoch")
            return
        try:
            ack = _decode(msg.data)
        except msgspec.DecodeError:
            self._settle(write, PublishUnconfirmed("not confirmed: NATS answered with something that is no answer"))
            return
        if ack.error is not None:
            self._settle(write, NotPublished(f"not published: NATS refused it: {ack.error.description}"))
        elif ack.duplicate and write.request.key_age < WINDOW_SECONDS:
            task = asyncio.get_running_loop().create_task(self._look_again(stream, write, ack.seq))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            if not ack.duplicate:
                self._kept(ack.seq, time)
            self._settle(write, Position(ack.seq, stream.epoch))

    async def _look_again(self, stream: Stream, write: Write, seq: int) -> None:
        """Publish again under another name when the key was kept for longer than its window."""
        try:
            is_expired = await self._is_expired(stream, write, seq)
        except Exception as error:
            self._settle(write, PublishUnconfirmed(f"not confirmed: {error}; publish it again with the same key"))
            return
        if not is_expired:
            self._settle(write, Position(seq, stream.epoch))
        elif write in self._waiting:
            write.generation, write.is_sent = seq, False
            self._unsent.append(write)
            self._wanted.set()

    # Ending.

    def _sweep(self) -> None:
        """Fail the publishes that waited too long, in the order of their deadlines; give up a server that is silent."""
        loop = asyncio.get_running_loop()
        now, reason = loop.time(), f"no answer within {self._seconds:g} s"
        while self._waiting and (write := next(iter(self._waiting))).deadline <= now:
            if write.future.done():
                self._drop(write)
            else:
                self._settle(write, _lost(write, reason))
        was_silent, self._is_silent = self._is_silent, self._in_flight > 0 and now - self._heard >= self._seconds
        if was_silent and self._is_silent:  # twice: when this process itself stood still, answers are there already
            self._failed(reason)
        is_wanted = self._waiting or self._in_flight
        self._sweeping = loop.call_later(_SWEEP, self._sweep) if is_wanted else None

    def _drop(self, write: Write) -> None:
        if write in self._waiting:
            del self._waiting[write]
            self._waiting_bytes -= write.size

    def _settle(self, write: Write, result: Position | PublishError) -> None:
        self._drop(write)
        settle(write.future, result)


def _lost(write: Write, reason: str) -> PublishError:
    if write.is_sent:
        return PublishUnconfirmed(f"not confirmed: {reason}; publish it again with the same key")
    return NotPublished(f"not published: {reason}; publish it again when the store is back")
