"""Text that grows in a channel and ends: its one producer, and the word that stops it, from any node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from types import TracebackType
from typing import ClassVar

from tidewire.channel_options import SlowPolicy
from tidewire.channels import producers
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import (
    AlreadyStreaming,
    BadRequest,
    ConfigurationError,
    LimitExceeded,
    NotPublished,
    PublishError,
    PublishUnconfirmed,
    Stopped,
    StoreUnavailable,
    TidewireError,
)
from tidewire.messages import Announcement, Format, Member, Position, Publication
from tidewire.protocols.base import to_utf8
from tidewire.protocols.text_chunks import ABORTED, DONE, STOPPED, Chunk, chunk_of, units
from tidewire.sessions.only_async import OnlyAsync
from tidewire.support.counters import count_limit

__all__ = ("TextStream", "TextStreams")

logger = logging.getLogger("tidewire")

#: The seconds over which small writes are rolled up, and the characters of unsent text at which `write` waits.
_ROLL_SECONDS, _UNSENT = 0.05, 65_536
#: Seconds between two tries while the store is away, and seconds after which a producer is told.
_RETRY_SECONDS, _PATIENCE = 0.5, 15.0
#: Publications among which the end of a stream is looked for.
_LOOK_BACK = 200
#: The user of the only member of a producers' channel.
_PRODUCER = "$producer"
_STOP = "stop-stream"


class TextStreams:
    """The text streams that this node writes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open: dict[str, TextStream] = {}
        node.on_control(_STOP, self._stop)

    def stream(self, channel: str) -> TextStream:
        """Return a stream in a channel, which begins when it is entered."""
        return TextStream(self._node, channel, self._open)

    async def stop(self, channel: str) -> None:
        """Stop the stream in a channel, on any node; harmless when there is none."""
        await self._node.control(Control(verb=_STOP), channel.encode(), Format.TEXT)

    def _stop(self, publication: Publication) -> None:
        stream = self._open.get(publication.data.decode())
        if stream is not None:
            stream.stop()

    async def aclose(self) -> None:
        """End the streams that are being written: later chunks would reach nobody."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._node.limits.publish_seconds):
                streams = [stream.abort() for stream in tuple(self._open.values())]
                await asyncio.gather(*streams, return_exceptions=True)


class TextStream(OnlyAsync):
    """One text, written by one producer: `async with hub.stream("chat:1") as out: await out.write("Hello")`.

    Text that is written is published in chunks (protocols.text_chunks), the last of which says how it ended.
    """

    _form: ClassVar[str] = "async with hub.stream(…) as out:"

    def __init__(self, node: Node, channel: str, open_streams: dict[str, TextStream]) -> None:
        self._node = node
        self._channel = channel
        self._open_streams = open_streams
        self._parts: list[str] = []
        self._length = 0
        self._unsent: list[str] = []
        self._unsent_size = 0
        #: The first half of a character that JSON has in two, at the end of what was written.
        self._half = ""
        self._size = 0
        self._number = 0
        #: The position of the newest chunk, and the offset of the newest one that holds the whole text so far.
        self._top = Position(0, "")
        self._whole_at = 0
        self._every = 0
        #: A chunk may be missing, because its publication failed or was cancelled: the next one has the whole text.
        self._is_torn = False
        self._ended = ""
        self._is_finished = False
        self._lost_leases = node.memberships.lost_leases
        self._error: PublishError | None = None
        self._rolling: asyncio.TimerHandle | None = None
        self._sending = asyncio.Lock()
        #: Names this stream in its chunks.
        self.id = secrets.token_hex(8)
        self._member = Member(self.id, _PRODUCER)

    @property
    def text(self) -> str:
        """The text that was written so far."""
        return "".join((*self._parts, *self._unsent))

    # From the beginning to the end.

    async def __aenter__(self) -> TextStream:
        if self._number or self._ended:
            raise TidewireError("this stream was entered before; call hub.stream for each text")
        retention = self._node.options.retentions[self._channel]
        if retention is None or not retention.size:
            raise ConfigurationError(f"a text stream is kept, and {self._channel!r} keeps nothing; give it a history")
        is_given_all = self._node.options.of(self._channel).slow is SlowPolicy.DISCONNECT
        self._every = min(retention.size - 1, retention.size // 2) if is_given_all else 0
        if self._channel in self._open_streams:
            raise self._refusal()
        self._open_streams[self._channel] = self
        try:
            leave = Announcement(Chunk(self.id, "", end=ABORTED).encode())
            joined = await self._node.memberships.enter(producers(self._channel), self._member, leave)
            if not joined.first:
                raise self._refusal()
            await self._publish(Chunk(self.id, "", 0))
        except BaseException:
            del self._open_streams[self._channel]
            self._node.tasks.spawn(self._quit())  # this task may be cancelled
            raise
        return self

    def _refusal(self) -> AlreadyStreaming:
        return AlreadyStreaming(f"another producer writes in {self._channel!r}; stop it, or wait for its end")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        end = DONE if exc is None else STOPPED if isinstance(exc, Stopped) else ABORTED
        ending = self._node.tasks.spawn(self._try_finish(end))  # a task of its own: this one may be cancelled
        if ending is None:
            ending = asyncio.create_task(self._try_finish(end))
        await asyncio.wait([ending])
        error: BaseException | None
        if ending.cancelled():  # by the node, which has waited long enough: nobody has cancelled this task
            error = PublishUnconfirmed(
                f"the application ended before the end of the stream in {self._channel!r} was kept"
            )
        else:
            error = ending.exception() or ending.result()
        if exc is None and error is not None:
            raise error
        return isinstance(exc, Stopped)

    async def abort(self) -> None:
        """End the stream at once; `write` raises Stopped from now on."""
        await self._finish(ABORTED)

    async def _try_finish(self, end: str) -> TidewireError | None:
        try:
            await self._finish(end)
        except TidewireError as error:
            return error
        return None

    async def _finish(self, end: str) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        was_taken_for_dead = self._ended == ABORTED
        self._ended = end
        if self._half:  # its other half does not come
            self._unsent.append("\ufffd")
        try:
            if not was_taken_for_dead:
                await self._send(end)
        finally:
            if self._open_streams.get(self._channel) is self:
                del self._open_streams[self._channel]
            await self._quit()

    async def _quit(self) -> None:
        """Make room for another producer, if need be later."""
        try:
            await self._node.memberships.quit(producers(self._channel), self._member)
        except StoreUnavailable:
            self._node.tasks.spawn(self._quit_later())

    async def _quit_later(self) -> None:
        await asyncio.sleep(_RETRY_SECONDS)
        await self._quit()

    def stop(self) -> None:
        """Make `write` raise Stopped: a reader has asked for it."""
        self._ended = self._ended or STOPPED

    # Writing.

    async def write(self, text: str) -> None:
        """Add text; it is published within 50 ms. Raises Stopped, and PublishError while the store is away for long.

        Raises LimitExceeded beyond `limits.stream_bytes`. Waits while much is unsent.
        """
        if self._ended:
            raise Stopped(f"the stream in {self._channel!r} has ended ({self._ended})")
        if not self._number:
            raise TidewireError("write `async with hub.stream(…) as out:` first")
        if not isinstance(text, str):
            raise BadRequest(f"a text stream takes str, not {type(text).__name__}")
        if self._error is not None:
            raise self._error
        text, half = self._joined(text)
        size = len(to_utf8(text))
        most = self._node.limits.stream_bytes
        if self._size + size > most:
            count_limit("stream_bytes")
            raise LimitExceeded(f"a text stream has at most {most} bytes (stream_bytes); give it more, or write less")
        self._size, self._half = self._size + size, half
        if text:
            self._unsent.append(text)
            self._unsent_size += size
            if self._rolling is None:
                self._rolling = asyncio.get_running_loop().call_later(_ROLL_SECONDS, self._roll)
        if self._unsent_size > _UNSENT:
            await self._send()
        else:
            await asyncio.sleep(0)  # a producer that never waits leaves the loop its turns

    def _joined(self, text: str) -> tuple[str, str]:
        """Return text behind the half of a character that came before it, and the half at its own end, which waits."""
        if self._half:  # a model's tokens may be cut within a surrogate pair
            whole = (self._half + text).encode("utf-16-le", "surrogatepass")
            text = whole.decode("utf-16-le", "surrogatepass")
            if len(text) > 1 and text[0] == self._half:  # its other half does not come
                text = f"\ufffd{text[1:]}"
        cut = len(text) - ("\ud800" <= text[-1:] <= "\udbff")
        return text[:cut], text[cut:]

    def _roll(self) -> None:
        self._rolling = None
        self._node.tasks.spawn(self._send_rolled())

    async def _send_rolled(self) -> None:
        try:
            await self._send()
        except PublishError as error:
            self._error = error

    async def _send(self, end: str = "") -> None:
        """Publish the unsent text, and the end; raises PublishError when the store has been away for long."""
        if self._rolling is not None:
            self._rolling.cancel()
            self._rolling = None
        async with self._sending:
            text, self._unsent, self._unsent_size = "".join(self._unsent), [], 0
            if not text and not end:
                return
            self._parts.append(text)
            at, self._length = self._length, self._length + units(text)
            if self._is_torn or self._is_whole_due():
                text, at = "".join(self._parts), 0
            self._is_torn = True
            await self._publish(Chunk(self.id, text, at, end))
            self._is_torn = False

    def _is_whole_due(self) -> bool:
        """Return whether a late comer could not read the text from its last whole beginning otherwise."""
        return self._top.offset - self._whole_at >= self._every

    async def _publish(self, chunk: Chunk) -> None:
        self._number += 1
        key, end = f"{self.id}:{self._number}", asyncio.get_running_loop().time() + _PATIENCE
        while True:
            try:
                position = await self._node.publish(self._channel, chunk.encode(), key=key, ephemeral=False)
                break
            except PublishError as error:
                is_final = isinstance(error, NotPublished) and not self._node.is_open
                if is_final or asyncio.get_running_loop().time() > end:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)
        if self._node.memberships.lost_leases != self._lost_leases:
            await self._look_for_end()
        if position.epoch != self._top.epoch:
            self._whole_at = -self._every  # the earlier text is gone: the next chunk is whole
        if chunk.at == 0:
            self._whole_at = position.offset
        self._top = position

    async def _look_for_end(self) -> None:
        """End here, too, if another node took this one for dead and has ended the stream."""
        self._lost_leases = self._node.memberships.lost_leases
        try:
            page = await self._node.broker.history(self._channel, limit=_LOOK_BACK, reverse=True)
        except StoreUnavailable:
            self._lost_leases = -1  # it is looked for with the next chunk
            return
        chunks = [chunk for one in page.publications if (chunk := chunk_of(one)) is not None]
        if any(chunk.stream == self.id and chunk.end == ABORTED for chunk in chunks):
            self._ended = ABORTED
