"""The broker on one SQLite file, shared by all processes of one machine: its side on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.sqlite.bus import Bus
from tidewire.backends.sqlite.file_errors import opening_error
from tidewire.backends.sqlite.folder import node_folder
from tidewire.backends.sqlite.mailbox import DeliveryOrder, FileWrite, Mailbox
from tidewire.backends.sqlite.publishing import Publishing
from tidewire.backends.sqlite.reading import Readers, read_history, read_positions
from tidewire.backends.sqlite.size_limits import SizeLimits
from tidewire.backends.sqlite.store_clock import StoreClock, SystemClock
from tidewire.backends.sqlite.transaction_mover import TransactionMover
from tidewire.backends.sqlite.transaction_publishing import publish_within
from tidewire.backends.sqlite.writer_thread import Answer, WriterThread
from tidewire.errors import NotPublished, PublishError, StoreUnavailable, TidewireError
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, HistoryPage, HistoryRequest, Position, Publication, PublishRequest
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("SqliteBroker",)

logger = logging.getLogger("tidewire")

#: Seconds that a close waits for a disk that does not answer, beyond the time of a publish.
_CLOSE = 5.0


class SqliteBroker(Broker):
    """Keeps publications in an SQLite file: `publish` returns when its commit is on the disk.

    All processes of one machine that open the same file are one store. `name`: a symbolic link that leads to it.
    """

    shared = True
    kept = "committed and fsynced"

    def __init__(
        self, path: Path, limits: Limits, *, name: Path | None = None, clock: SystemClock | None = None
    ) -> None:
        self._path = path.absolute()
        self._name = path if name is None else name
        self._limits = limits
        self._clock = StoreClock(clock or SystemClock())
        self.within = self._publish_within
        self._is_open = False

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._is_open:
            return
        try:
            await self._start(deliver, resumed)
        except OSError as error:
            raise opening_error(error, self._path) from error

    async def _start(self, deliver: Deliver, resumed: Resumed) -> None:
        self._deliver, self._loop = deliver, asyncio.get_running_loop()
        self._mailbox, folder = Mailbox(), node_folder(self._path)
        limits, count = self._limits, partial(self._call, count_limit)
        size_limits = SizeLimits(limits.channel_history_bytes, limits.store_history_bytes, count)
        self._readers = Readers(self._path, lambda: self._writer.suspect())
        self._writer = writer = WriterThread(
            self._path,
            self._name,
            folder,
            self._clock,
            self._mailbox,
            self._post,
            lambda: self._call(resumed),
            self._readers.forget,
            size_limits,
            is_over=self._loop.is_closed,
        )
        self._publishing = Publishing(self._path, limits.publish_seconds, self._mailbox, lambda: writer.trouble)
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
        try:
            self._bus = Bus(folder, deliver)
        except OSError:
            self._mailbox.close()
            await self._end()
            raise
        self._opened()

    def _opened(self) -> None:
        self._is_open = True
        self._admission = Admission.of(self._loop)
        self._let_others_first = self._admission.let_first(lambda: self._publishing.is_waiting)
        self._mover = TransactionMover(
            self._path, lambda: self._writer.seed, self._submit, partial(self._submit, removes=True)
        )
        self._mover.start()

    def _call(self, function: object, *arguments: object) -> None:
        """Call a function on the event loop, from the writer's thread."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:  # the loop has ended without `aclose`: nobody is left to tell
            self._mailbox.close()

    async def aclose(self) -> None:
        if not self._is_open:
            return
        await self._mover.aclose()
        self._is_open = False
        self._let_others_first()
        self._bus.close()
        self._publishing.flush()
        self._mailbox.close()
        await self._end()
        await self._readers.aclose()
        self._publishing.close()

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

    def publish(self, request: PublishRequest) -> asyncio.Future[Position]:
        return self._submit(request)

    async def _publish_within(self, connection: object, request: PublishRequest) -> None:
        self._check_open()
        await publish_within(connection, request, self._mover.expect)

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        if self._is_open:
            self._bus.send(publications)

    async def remove_history(self, channel: str) -> None:
        try:
            await self._submit(PublishRequest(channel, b""), removes=True)
        except PublishError as error:
            raise StoreUnavailable(f"history not removed: {error}") from error

    def _submit(self, request: PublishRequest, *, removes: bool = False) -> asyncio.Future[Position]:
        if not self._is_open:
            raise NotPublished("the broker is not open; publish between its start and its close")
        return self._publishing.submit(request, removes=removes)

    def _post(self, publications: Sequence[Publication], answers: Sequence[Answer]) -> None:
        """Take publications and answers of a turn of the writer thread, in that thread."""
        size = sum([len(publication.data) for publication in publications])
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
                if isinstance(waiter, FileWrite):
                    self._publishing.settle(waiter, result)  # type: ignore[arg-type]
                elif waiter.future is not None and not waiter.future.done():
                    _answer(waiter.future, result)
            if answers and not self._publishing.is_waiting:
                self._admission.go_on()

    # Channels and reading.

    async def subscribe(self, channel: str) -> Position:
        self._check_open()
        future: asyncio.Future[Position] = self._loop.create_future()
        self._mailbox.order(DeliveryOrder(channel, future))
        try:
            async with asyncio.timeout(self._limits.publish_seconds):
                return await future
        except TimeoutError as error:
            raise StoreUnavailable(f"the disk that holds {self._path} does not answer; see if it hangs") from error

    async def unsubscribe(self, channel: str) -> None:
        if self._is_open:
            self._mailbox.order(DeliveryOrder(channel, None))

    async def read(self, request: HistoryRequest) -> HistoryPage:
        self._check_open()
        seed = self._writer.seed
        return await self._readers.run(lambda connection: read_history(connection, request, seed, self._clock))

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        self._check_open()
        seed = self._writer.seed
        return await self._readers.run(lambda connection: read_positions(connection, channels, seed))

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")


def _answer(future: asyncio.Future[Position], result: Position | TidewireError) -> None:
    if isinstance(result, Position):
        future.set_result(result)
    else:
        future.set_exception(result)
