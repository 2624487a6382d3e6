"""Keeps publications: everything that waits goes in one statement, which is one commit, on a connection of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.connection import Circuit
from tidewire.backends.postgres.pool import close
from tidewire.backends.postgres.schema import SQL, enter
from tidewire.backends.postgres.server_errors import FAILURES, explain, is_away, is_certain
from tidewire.errors import NotPublished, PublishError, PublishUnconfirmed, TidewireError
from tidewire.messages import PublishRequest

__all__ = ("Kept", "Write", "Writer", "stored_key")

#: Publications, and their bytes, of one commit; and how many must wait for an idle writer to take only half.
_COMMIT_COUNT, _COMMIT_BYTES = 1_000, 4 * 1_048_576
_WORTH_HALVING = 16
#: Characters up to which a key is stored as it is: an index has no room for longer ones.
_KEY_LENGTH = 600
_MOST = 2**62


class Write:
    """One publish on its way, and who waits for it."""

    __slots__ = ("deadline", "future", "is_sent", "request", "size", "twins")

    def __init__(self, request: PublishRequest, future: asyncio.Future[Any], deadline: float) -> None:
        self.request = request
        self.future = future
        self.deadline = deadline
        self.size = len(request.data) + len(request.meta) + 256
        self.is_sent = False
        #: Others of the same commit with the same key: they share its answer.
        self.twins: list[Write] = []


class Kept(msgspec.Struct, frozen=True, gc=False):
    """What one commit has kept: for each write its offset, and the top of its channel before the commit."""

    writes: Sequence[Write]
    offsets: Sequence[int]
    bases: Sequence[int]
    time: float
    era: str


def stored_key(key: str) -> str | None:
    """Return a key as it is stored: None without one, a digest of a long one."""
    if len(key) <= _KEY_LENGTH:
        return key or None
    return hashlib.sha256(key.encode()).hexdigest()


class Writer:
    """Commits the publications of some channels, in the order in which they were put."""

    def __init__(
        self,
        server: Server,
        circuit: Circuit,
        on_kept: Callable[[Kept], None],
        on_failed: Callable[[Sequence[Write], PublishError], None],
        on_given_up: Callable[[Write], None],
    ) -> None:
        self._server = server
        self._circuit = circuit
        self._on_kept = on_kept
        self._on_failed = on_failed
        self._on_given_up = on_given_up
        self._waiting: deque[Write] = deque()
        self._wake = asyncio.Event()
        self._connection: Any = None
        self._sent: Sequence[Write] = ()
        self._sent_at = 0.0
        #: What is known to have been flushed; a server that knows less is an older copy (schema.enter).
        self.seen: str | None = None

    def put(self, writes: Sequence[Write]) -> None:
        """Take publications; they are sent in this order."""
        self._waiting.extend(writes)
        self._wake.set()

    def is_stuck(self, now: float) -> bool:
        """What was sent has not been answered in the time of a publish."""
        return bool(self._sent) and now - self._sent_at >= self._server.seconds

    async def run(self) -> None:
        """Commit what waits, for ever."""
        is_idle = True
        while True:
            if not self._waiting:
                is_idle = True
                self._wake.clear()
                await self._wake.wait()
                continue
            outages = self._circuit.outages
            try:
                connection = await self._connected()
            except (*FAILURES, TidewireError) as error:
                self._circuit.trip(error, outages)
                self.give_up(explain(error, self._server.shown))
                continue
            writes = self._take(halve=is_idle)
            if writes:
                await self._commit(connection, writes)
                is_idle = False

    async def _connected(self) -> Any:
        """Return the connection; a new one is asked first whether the data is what it was."""
        if self._connection is None or self._connection.is_closed():
            self._circuit.check()
            connection = await self._server.connect()
            try:
                async with asyncio.timeout(self._server.seconds):
                    await enter(connection, self.seen)
            except BaseException:
                connection.terminate()  # nothing is published on data that may be older
                raise
            self._connection = connection
        return self._connection

    def _take(self, *, halve: bool) -> Sequence[Write]:
        """Take what waits; an idle writer leaves half of much: the server and this process then work side by side."""
        waiting, size = self._waiting, 0
        writes: list[Write] = []
        keyed: dict[tuple[str, str], Write] = {}
        count = min(len(waiting), _COMMIT_COUNT)
        if halve and count >= _WORTH_HALVING:
            count //= 2
        while waiting and len(writes) < count and size < _COMMIT_BYTES:
            write = waiting.popleft()
            if write.future.done():  # who has given up by now publishes nothing
                self._on_given_up(write)
                continue
            write.is_sent = True
            key = write.request.key
            if key:
                first = keyed.setdefault((write.request.channel, key), write)
                if first is not write:
                    first.twins.append(write)
                    continue
            writes.append(write)
            size += write.size
        return writes

    async def _commit(self, connection: Any, writes: Sequence[Write]) -> None:
        loop = asyncio.get_running_loop()
        outages = self._circuit.outages
        first = writes[0].request.channel
        is_one = all(write.request.channel == first and not write.request.key for write in writes)
        self._sent, self._sent_at = writes, loop.time()
        try:
            kept = await (_append if is_one else _keep)(connection, writes)
        except FAILURES as error:
            self._failed(writes, error, outages)
        except BaseException as error:  # whatever it is: whoever waits must be told
            is_end = isinstance(error, asyncio.CancelledError)
            reason = "the broker was closed" if is_end else f"an internal error came ({error!r})"
            self._fail(writes, PublishUnconfirmed(f"not confirmed: {reason} before the server answered"))
            raise
        else:
            # first the next commit goes out, then these are told
            loop.call_soon(self._on_kept, kept)
        finally:
            self._sent = ()

    def _failed(self, writes: Sequence[Write], error: BaseException, outages: int) -> None:
        reason = self._circuit.reason or explain(error, self._server.shown)
        if is_away(error):
            self._circuit.trip(error, outages)
        if is_certain(error):
            self._fail(writes, NotPublished(f"not published: {reason}"))
        else:
            self._fail(writes, PublishUnconfirmed(f"not confirmed: {reason}; publish it again with the same key"))

    def give_up(self, reason: str) -> None:
        """Fail what has not been sent."""
        writes, self._waiting = tuple(self._waiting), deque()
        self._fail(writes, NotPublished(f"not published: {reason}"))

    def _fail(self, writes: Sequence[Write], error: PublishError) -> None:
        if writes:
            self._on_failed(writes, error)

    def drop(self) -> None:
        """End the connection at once; what was sent on it is not confirmed."""
        if self._connection is not None:
            self._connection.terminate()

    async def aclose(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await close(self._connection)


async def _append(connection: Any, writes: Sequence[Write]) -> Kept:
    """Keep publications of one channel, none of which has a key."""
    requests = [write.request for write in writes]
    size, age = None, None
    for request in requests:
        if request.retention is not None:
            size, age = min(request.retention.size, _MOST), request.retention.age
    row = await connection.fetchrow(SQL["append"], requests[0].channel, size, age, *_bodies(requests))
    base = row["base"]
    return Kept(writes, range(base + 1, base + 1 + len(writes)), (base,) * len(writes), row["moment"], row["era"])


async def _keep(connection: Any, writes: Sequence[Write]) -> Kept:
    """Keep publications of any channels."""
    known: dict[str, int] = {}
    sizes: list[int | None] = []
    ages: list[float | None] = []
    places = []
    requests = [write.request for write in writes]
    for request in requests:
        place = known.get(request.channel)
        if place is None:
            place = known[request.channel] = len(known) + 1
            sizes.append(None)
            ages.append(None)
        places.append(place)
        if request.retention is not None:
            sizes[place - 1], ages[place - 1] = min(request.retention.size, _MOST), request.retention.age
    keys = [stored_key(request.key) for request in requests]
    keyed = (keys, [request.key_age for request in requests]) if any(keys) else ([], [])
    row = await connection.fetchrow(SQL["keep"], list(known), sizes, ages, places, *keyed, *_bodies(requests))
    bases = row["bases"]
    return Kept(writes, row["offsets"], [bases[place - 1] for place in places], row["moment"], row["era"])


def _bodies(requests: Sequence[PublishRequest]) -> tuple[list[int], list[bytes], list[bytes]]:
    """Return formats, data and metas; no metas where all are empty, because each takes the driver its time."""
    metas = [request.meta for request in requests]
    formats: list[int] = [request.format for request in requests]
    return formats, [request.data for request in requests], metas if any(metas) else []
