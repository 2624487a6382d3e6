"""Sends publishes in the order in which they were submitted, many in flight, and answers each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from tidewire.backends.nats.jetstream import MESSAGE_ID, Ack, Stamp, fingerprint
from tidewire.backends.nats.publication_stream import WINDOW_SECONDS, Stream
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.nats.session import TooLarge, Unsendable, is_nobody
from tidewire.backends.shared.waiting import WaitingRoom, Write, not_published, unconfirmed
from tidewire.errors import BadRequest, NotPublished, PublishError
from tidewire.messages import Position, PublishRequest

__all__ = ("KeyedWrite", "Publishing")

#: Publishes that the server has not answered, at which no more are sent.
IN_FLIGHT = 8_192

_decode = msgspec.json.Decoder(Ack).decode


class KeyedWrite(Write):
    """A publish, which is sent again under another name when its key was kept for longer than its window."""

    __slots__ = ("generation",)

    def __init__(self, request: PublishRequest, seconds: float) -> None:
        super().__init__(request, seconds)
        #: The offset at which the same key was kept before its window was over.
        self.generation = 0

    def begin_again(self, generation: int) -> None:
        """Prepare to be sent again: the key was kept at this offset before its window was over."""
        self.generation = generation
        self.is_sent = False


class Publishing:
    """Takes publishes, and sends them by one task for as long as a session lasts."""

    def __init__(
        self,
        seconds: float,
        clock: StoreClock,
        *,
        is_expired: Callable[[Stream, KeyedWrite, int], Awaitable[bool]],
        failed: Callable[[str], None],
        kept: Callable[[int, float], None],
        newest: Callable[[], int],
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._is_expired = is_expired
        self._failed = failed
        self._kept = kept
        self._newest = newest
        self._room = WaitingRoom[KeyedWrite]("NATS", hand_over=self._put, late=self._late, watch=self._watch)
        self._unsent: deque[KeyedWrite] = deque()
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._in_flight = 0
        #: When the server answered last, or was first asked since; and that this was long ago when last looked.
        self._heard = 0.0
        self._is_silent = False
        self._sender: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def submit(self, request: PublishRequest) -> asyncio.Future[Position]:
        """Take a publish; raises NotPublished."""
        if request.key and request.key_age > WINDOW_SECONDS:
            raise NotPublished(
                f"key_age={request.key_age:g} is more than the {WINDOW_SECONDS:g} s for which NATS remembers keys"
            )
        return self._room.enter(KeyedWrite(request, self._seconds))

    def _put(self, writes: Sequence[KeyedWrite]) -> None:
        self._unsent.extend(writes)
        self._wanted.set()

    def open(self, stream: Stream) -> None:
        """Send by this stream from now on."""
        self._in_flight = 0
        self._sender = asyncio.get_running_loop().create_task(self._send_all(stream), name="tidewire-nats-sender")

    def lost(self, reason: str) -> None:
        """Fail every publish: those that were sent may be kept or not, the others are not."""
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._unsent.clear()
        self._room.fail_all(lambda write: _lost(write, reason))

    async def aclose(self) -> None:
        """Wait until all that was taken is answered, and end."""
        await self._room.wait_empty()
        self.lost("the broker was closed")
        for task in self._asking:
            task.cancel()
        self._room.close()

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
                    self._room.release(write)
                    continue
                channel = write.request.channel
                subject = subjects.get(channel)
                if subject is None:
                    if len(subjects) >= 10_000:
                        subjects.clear()
                    subject = subjects[channel] = stream.stored(channel)
                await self._send(stream, write, subject)

    async def _send(self, stream: Stream, write: KeyedWrite, subject: str) -> None:
        loop = asyncio.get_running_loop()
        request, time, newest = write.request, self._clock.now(), self._newest()
        headers = Stamp.headers_of(request, time)
        if request.key:
            headers[MESSAGE_ID] = fingerprint(request.channel, request.key, str(write.generation))

        def answer(msg: Msg | None) -> None:
            self._in_flight -= 1
            self._heard = loop.time()
            self._answered.set()
            if msg is not None:
                self._take(stream, write, msg, time, newest)

        write.sent()
        if not self._in_flight:
            self._heard = loop.time()
        self._in_flight += 1
        try:
            await stream.session.publish(subject, request.data, headers, answer)
        except Unsendable as error:
            self._in_flight -= 1
            is_callers = isinstance(error, TooLarge)
            self._room.settle(write, BadRequest(str(error)) if is_callers else not_published(str(error)))

    def _take(self, stream: Stream, write: KeyedWrite, msg: Msg, time: float, newest: int) -> None:
        if is_nobody(msg):
            self._room.settle(write, not_published("the stream is gone, or has another epoch; try again"))
            self._failed("the stream is gone, or has another epoch")
            return
        try:
            ack = _decode(msg.data)
        except msgspec.DecodeError:
            self._room.settle(write, unconfirmed("NATS answered with something that is no answer"))
            return
        if ack.error is not None:
            self._room.settle(write, not_published(f"NATS refused it: {ack.error.reason}"))
        elif not ack.duplicate and ack.seq <= newest:  # another stream has taken its place
            reason = "the stream has lost its newest messages"
            self._room.settle(write, unconfirmed(reason))
            self._failed(reason)
        elif ack.duplicate and write.request.key_age < WINDOW_SECONDS:
            task = asyncio.get_running_loop().create_task(self._look_again(stream, write, ack.seq))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            if not ack.duplicate:
                self._kept(ack.seq, time)
            self._room.settle(write, Position(ack.seq, stream.epoch))

    async def _look_again(self, stream: Stream, write: KeyedWrite, seq: int) -> None:
        """Publish again under another name, if the key was kept for longer than its window."""
        try:
            is_expired = await self._is_expired(stream, write, seq)
        except Exception as error:
            self._room.settle(write, unconfirmed(str(error)))
            return
        if not is_expired:
            self._room.settle(write, Position(seq, stream.epoch))
        elif write in self._room:
            write.begin_again(seq)
            self._unsent.append(write)
            self._wanted.set()

    # Ending.

    def _watch(self, now: float) -> bool:
        """Give up a server that is silent; True while an answer is missing."""
        was_silent, self._is_silent = self._is_silent, self._in_flight > 0 and now - self._heard >= self._seconds
        if was_silent and self._is_silent:  # twice: when this process itself stood still, answers are there already
            self._failed(f"no answer within {self._seconds:g} s")
        return self._in_flight > 0

    def _late(self, write: KeyedWrite) -> PublishError:
        return _lost(write, f"no answer within {self._seconds:g} s")


def _lost(write: Write, reason: str) -> PublishError:
    return unconfirmed(reason) if write.is_sent else not_published(f"{reason}; publish it again when the store is back")
