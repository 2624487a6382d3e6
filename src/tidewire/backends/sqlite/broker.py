"""The broker on one SQLite file, shared by all processes of one machine: its side on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.shared.waiting import check_room
from tidewire.backends.sqlite.folder import node_folder
from tidewire.backends.sqlite.mailbox import Mailbox, Subscribing, Write
from tidewire.backends.sqlite.reading import HistoryQuery, Readers, read_history, read_positions
from tidewire.backends.sqlite.store_clock import StoreClock, SystemClock
from tidewire.backends.sqlite.writer import Answer, Writer
from tidewire.errors import NotPublished, PublishError, PublishUnconfirmed, StoreUnavailable, TidewireError
from tidewire.messages import HistoryPage, Position, Publication, PublishRequest, Retention
from tidewire.options import Limits

__all__ = ("SqliteBroker",)

logger = logging.getLogger("tidewire")

#: Seconds between looks for publishes that waited too long.
_SWEEP = 0.1
#: Seconds that a close waits for a disk that does not answer, beyond the time of a publish.
_CLOSE = 5.0


class SqliteBroker(Broker):
    """Keeps publications in an SQLite file: `publish` returns when its commit is on the disk.

    All processes of one machine that open the same file are one store.
    """

    shared = True
    kept = "committed and fsynced"

    def __init__(self, path: Path, limits: Limits, *, clock: SystemClock | None = None) -> None:
        self._path = path.absolute()
        self._limits = limits
        self._clock = StoreClock(clock or SystemClock())
        self._is_open = False
        self._waiting: dict[Write, None] = {}
        self._waiting_bytes = 0
        self._turn: list[Write] = []
        self._sweeping: asyncio.TimerHandle | None = None

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._is_open:
            return
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox()
        folder = node_folder(self._path)
        self._writer = Writer(self._path, folder, self._clock, self._mailbox, self._post, lambda: self._call(resumed))
        started: asyncio.Future[TidewireError | None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._writer.start(
            lambda error: self._call(started.set_result, error), lambda: self._call(self._ended.set_result, None)
        )
        try:
            error = await asyncio.shield(started)
        except asyncio.CancelledError:
            self._mailbox.close()
            raise
        if error is not None:
            await self._end()
            raise error
        self._readers = Readers(self._path)
        self._is_open = True

    def _call(self, function: object, *arguments: object) -> None:
        """Call a function on the event loop, from the writer's thread."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:  # the loop has ended without `aclose`: nobody is left to tell
            self._mailbox.close()

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._flush()
        self._mailbox.close()
        await self._end()
        await self._readers.aclose()
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(self._limits.publish_seconds + _CLOSE):
                await asyncio.shield(self._ended)
        except TimeoutError:
            logger.error("the disk that holds %s does not answer; closing without it", self._path)
            return
        self._writer.join()
        self._mailbox.dispose()

    # Publishing.

    async def publish(self, request: PublishRequest) -> Position:
        return await self._submit(request)

    async def remove_history(self, channel: str) -> None:
        try:
            await self._submit(PublishRequest(channel, b""), removes=True)
        except PublishError as error:
            raise StoreUnavailable(f"history not removed: {error}") from error

    def _submit(self, request: PublishRequest, *, removes: bool = False) -> asyncio.Future[Position]:
        if not self._is_open:
            raise NotPublished("the broker is not open; publish between its start and its close")
        check_room(len(self._waiting), self._waiting_bytes, "the disk")
        try:
            request.channel.encode()
            request.key.encode()
        except UnicodeEncodeError as error:
            raise NotPublished(f"channel {request.channel!r} or its key is not valid Unicode; mend the name") from error
        deadline = self._loop.time() + self._limits.publish_seconds
        write = Write(request, self._loop.create_future(), deadline, removes=removes)
        self._waiting[write] = None
        self._waiting_bytes += write.size
        if not self._turn:
            self._loop.call_soon(self._flush)
        self._turn.append(write)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_SWEEP, self._sweep)
        return write.future

    def _flush(self) -> None:
        """Hand over what one turn of the loop has published: one wake-up, and one commit where it fits."""
        if self._turn:
            self._mailbox.put(self._turn)
            self._turn = []

    def _sweep(self) -> None:
        """Fail the publishes that waited too long; they are in the order of their deadlines."""
        self._sweeping = None
        now = self._loop.time()
        while self._waiting:
            write = next(iter(self._waiting))
            if write.deadline > now:
                self._sweeping = self._loop.call_later(_SWEEP, self._sweep)
                return
            self._settle(write, self._timeout_error(write))

    def _timeout_error(self, write: Write) -> PublishError:
        seconds = self._limits.publish_seconds
        if self._mailbox.withdraw(write):
            reason = self._writer.trouble or f"another process, or the disk, kept {self._path} busy; see if one hangs"
            return NotPublished(f"not published within {seconds:g} s: {reason}")
        return PublishUnconfirmed(
            f"not confirmed within {seconds:g} s: the disk that holds {self._path} is slow to answer; "
            "publish it again with the same key"
        )

    def _post(self, publications: Sequence[Publication], answers: Sequence[Answer]) -> None:
        """Take what a turn of the writer's thread brings, in that thread."""
        size = sum(len(publication.data) for publication in publications)
        self._mailbox.posted(size)
        self._call(self._arrive, publications, answers, size)

    def _arrive(self, publications: Sequence[Publication], answers: Sequence[Answer], size: int) -> None:
        try:
            if publications:
                self._deliver(publications)
        except Exception:
            logger.exception("a delivery of %d publications failed", len(publications))
        finally:
            self._mailbox.delivered(size)
            for waiter, result in answers:
                self._settle(waiter, result)

    def _settle(self, waiter: Write | Subscribing, result: Position | TidewireError) -> None:
        if isinstance(waiter, Write) and waiter in self._waiting:
            del self._waiting[waiter]
            self._waiting_bytes -= waiter.size
        future = waiter.future
        if future is None or future.done():
            return
        if isinstance(result, Position):
            future.set_result(result)
        else:
            future.set_exception(result)

    # Channels and reading.

    async def subscribe(self, channel: str) -> Position:
        self._check_open()
        future: asyncio.Future[Position] = self._loop.create_future()
        self._mailbox.subscribe(Subscribing(channel, future))
        try:
            async with asyncio.timeout(self._limits.publish_seconds):
                return await future
        except TimeoutError as error:
            raise StoreUnavailable(f"the disk that holds {self._path} does not answer; see if it hangs") from error

    async def unsubscribe(self, channel: str) -> None:
        if self._is_open:
            self._mailbox.subscribe(Subscribing(channel, None))

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
        retention: Retention | None = None,
    ) -> HistoryPage:
        self._check_open()
        query = HistoryQuery(channel, since, limit, reverse, retention, self._writer.seed)
        return await self._readers.run(lambda connection: read_history(connection, query, self._clock))

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        self._check_open()
        seed = self._writer.seed
        return await self._readers.run(lambda connection: read_positions(connection, channels, seed))

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")
