"""Keeps publications: everything that waits goes in one statement, which is one commit, on a session of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.connection import Connection
from tidewire.backends.postgres.pool import close
from tidewire.backends.postgres.schema import SQL, Seen, enter
from tidewire.backends.postgres.server_errors import FAILURES, explain, is_away, is_certain, is_damaged
from tidewire.backends.shared.waiting import WaitingRoom, Write, not_published, unconfirmed
from tidewire.errors import NotPublished, PublishError, TidewireError
from tidewire.messages import Position, PublishRequest

__all__ = ("MOST", "Committer", "Kept", "Publishing", "TwinWrite", "stored_key")

#: Sessions that publish; a channel always uses the same one.
_COMMITTERS = 2
#: Publications, and their bytes, of one commit; and how many must wait for an idle session to take only half.
_COMMIT_COUNT, _COMMIT_BYTES = 1_000, 4 * 1_048_576
_WORTH_HALVING = 16
#: Characters up to which a key is stored as it is: an index has no room for longer ones.
_KEY_LENGTH = 600
#: The largest number of publications that a channel keeps.
MOST = 2**62


class TwinWrite(Write):
    """A publish, and the others of the same commit with the same key, which share its answer."""

    __slots__ = ("twins",)

    def __init__(self, request: PublishRequest, seconds: float) -> None:
        super().__init__(request, seconds)
        self.twins: list[TwinWrite] = []


class Kept(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a commit: for each write its offset, and the top of its channel before the commit."""

    writes: Sequence[TwinWrite]
    offsets: Sequence[int]
    bases: Sequence[int]
    time: float
    era: str


def stored_key(key: str) -> str | None:
    """Return a key as it is stored: None without one, a digest of a long one."""
    if len(key) <= _KEY_LENGTH:
        return key or None
    return hashlib.sha256(key.encode()).hexdigest()


class Publishing:
    """Takes publishes, hands each to the session of its channel, and answers it.

    `on_kept` is called with each commit before its publishes are answered.
    """

    def __init__(self, server: Server, connection: Connection, on_kept: Callable[[Kept], None]) -> None:
        self._server = server
        self._connection = connection
        self._on_kept = on_kept
        self._room = WaitingRoom[TwinWrite](server.shown, hand_over=self._put, late=self._late, watch=self._watch)
        #: Each has a task of its own to run.
        self.committers = [Committer(server, connection, self._room, self._kept) for _ in range(_COMMITTERS)]

    def submit(self, request: PublishRequest) -> asyncio.Future[Position]:
        """Take a publish; raises NotPublished at once while the server is away, or when too many wait."""
        if self._connection.trouble:
            raise not_published(self._connection.trouble)
        return self._room.enter(TwinWrite(request, self._server.seconds))

    def _put(self, writes: Sequence[TwinWrite]) -> None:
        parts: list[list[TwinWrite]] = [[] for _ in self.committers]
        for write in writes:
            parts[hash(write.request.channel) % _COMMITTERS].append(write)
        for committer, part in zip(self.committers, parts, strict=True):
            if part:
                committer.put(part)

    def _kept(self, kept: Kept) -> None:
        self._on_kept(kept)
        for write, offset in zip(kept.writes, kept.offsets, strict=True):
            position = Position(offset, kept.era)
            self._room.settle(write, position)
            for twin in write.twins:
                self._room.settle(twin, position)

    def _late(self, write: TwinWrite) -> PublishError:
        within = f"within {self._server.seconds:g} s"
        if write.is_sent:
            return unconfirmed(f"no answer came {within}: {self._server.shown} is slow to answer")
        return NotPublished(
            f"not published {within}: {self._server.shown} is slow to answer, and others were before it"
        )

    def _watch(self, now: float) -> bool:
        """Give up a server that has left a commit unanswered for the time of a publish."""
        if any(committer.is_stuck(now) for committer in self.committers):
            self._connection.lose(TimeoutError(), self._connection.losses)
        return any(committer.is_busy for committer in self.committers)

    def expect(self, seen: Seen | None) -> None:
        """Take a place in the server's log that is known to have been flushed (schema.enter)."""
        for committer in self.committers:
            committer.seen = seen

    def lost(self) -> None:
        """End the sessions at once; everything that was not sent fails."""
        for committer in self.committers:
            committer.drop()
            committer.give_up(self._connection.trouble)

    async def wait_empty(self) -> None:
        """Return when every publish is answered, by its deadline at the latest."""
        await self._room.wait_empty()

    async def aclose(self) -> None:
        """End the sessions; the tasks of the committers must have ended."""
        self._room.close()
        await asyncio.gather(*(committer.aclose() for committer in self.committers))


class Committer:
    """Commits the publications of some channels, in the order in which they were put."""

    def __init__(
        self, server: Server, connection: Connection, room: WaitingRoom[TwinWrite], on_kept: Callable[[Kept], None]
    ) -> None:
        self._server = server
        self._connection = connection
        self._room = room
        self._on_kept = on_kept
        self._unsent: deque[TwinWrite] = deque()
        self._wake = asyncio.Event()
        self._session: Any = None
        self._sent: Sequence[TwinWrite] = ()
        self._sent_at = 0.0
        #: A place in the server's log that is known to have been flushed: a server that has less is an older copy.
        self.seen: Seen | None = None

    def put(self, writes: Sequence[TwinWrite]) -> None:
        """Take publications; they are sent in this order."""
        self._unsent.extend(writes)
        self._wake.set()

    @property
    def is_busy(self) -> bool:
        """A commit is not answered yet."""
        return bool(self._sent)

    def is_stuck(self, now: float) -> bool:
        """Return whether a commit has not been answered in the time of a publish."""
        return bool(self._sent) and now - self._sent_at >= self._server.seconds

    async def run(self) -> None:
        """Commit everything that waits, for ever."""
        is_idle = True
        while True:
            if not self._unsent:
                is_idle = True
                self._wake.clear()
                await self._wake.wait()
                continue
            losses = self._connection.losses
            try:
                session = await self._open_session()
            except (*FAILURES, TidewireError) as error:
                self._connection.lose(error, losses)
                self.give_up(explain(error, self._server.shown))
                continue
            writes = self._take(halve=is_idle)
            if writes:
                await self._commit(session, writes)
                is_idle = False

    async def _open_session(self) -> Any:
        """Return the session; a new one first checks that the data is the same as before."""
        if self._session is None or self._session.is_closed():
            self._connection.check()
            session = await self._server.connect()
            try:
                async with asyncio.timeout(self._server.seconds):
                    await enter(session, self.seen)
            except BaseException:
                session.terminate()  # nothing is published on data that may be older
                raise
            self._session = session
        return self._session

    def _take(self, *, halve: bool) -> Sequence[TwinWrite]:
        """Return the publications of the next commit.

        An idle session takes half of many: then the server and this process work side by side.
        """
        unsent, size = self._unsent, 0
        writes: list[TwinWrite] = []
        keyed: dict[tuple[str, str], TwinWrite] = {}
        count = min(len(unsent), _COMMIT_COUNT)
        if halve and count >= _WORTH_HALVING:
            count //= 2
        while unsent and len(writes) < count and size < _COMMIT_BYTES:
            write = unsent.popleft()
            if write.future.done():  # its caller has given up
                self._room.release(write)
                continue
            write.sent()
            key = write.request.key
            if key:
                first = keyed.setdefault((write.request.channel, key), write)
                if first is not write:
                    first.twins.append(write)
                    continue
            writes.append(write)
            size += write.size
        return writes

    async def _commit(self, session: Any, writes: Sequence[TwinWrite]) -> None:
        loop = asyncio.get_running_loop()
        losses = self._connection.losses
        first = writes[0].request.channel
        is_one = all(write.request.channel == first and not write.request.key for write in writes)
        self._sent, self._sent_at = writes, loop.time()
        try:
            kept = await (_append if is_one else _keep)(session, writes)
        except FAILURES as error:
            self._failed(writes, error, losses)
            if is_damaged(error):
                await session.execute(SQL["mend"], timeout=self._server.seconds)
        except BaseException as error:  # the callers must be told of any error
            is_end = isinstance(error, asyncio.CancelledError)
            reason = "the broker was closed" if is_end else f"an internal error came ({error!r})"
            self._fail(writes, unconfirmed(f"{reason} before the server answered"))
            raise
        else:
            # first the next commit goes out, then the callers are told
            loop.call_soon(self._on_kept, kept)
        finally:
            self._sent = ()

    def _failed(self, writes: Sequence[TwinWrite], error: BaseException, losses: int) -> None:
        reason = self._connection.trouble or explain(error, self._server.shown)
        if is_away(error):
            self._connection.lose(error, losses)
        self._fail(writes, not_published(reason) if is_certain(error) else unconfirmed(reason))

    def give_up(self, reason: str) -> None:
        """Fail everything that has not been sent."""
        writes, self._unsent = tuple(self._unsent), deque()
        self._fail(writes, not_published(reason))

    def _fail(self, writes: Sequence[TwinWrite], error: PublishError) -> None:
        for write in writes:
            self._room.fail((write, *write.twins), error)

    def drop(self) -> None:
        """End the session at once; a commit that was sent by it is not confirmed."""
        if self._session is not None:
            self._session.terminate()

    async def aclose(self) -> None:
        """End the session."""
        if self._session is not None:
            await close(self._session)


async def _append(session: Any, writes: Sequence[TwinWrite]) -> Kept:
    """Keep publications of one channel, none of which has a key."""
    requests = [write.request for write in writes]
    size, age = None, None
    for request in requests:
        if request.retention is not None:
            size, age = min(request.retention.size, MOST), request.retention.age
    row = await session.fetchrow(SQL["append"], requests[0].channel, size, age, *_bodies(requests))
    base = row["base"]
    return Kept(writes, range(base + 1, base + 1 + len(writes)), (base,) * len(writes), row["moment"], row["era"])


async def _keep(session: Any, writes: Sequence[TwinWrite]) -> Kept:
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
            sizes[place - 1], ages[place - 1] = min(request.retention.size, MOST), request.retention.age
    keys = [stored_key(request.key) for request in requests]
    keyed = (keys, [request.key_age for request in requests]) if any(keys) else ([], [])
    row = await session.fetchrow(SQL["keep"], list(known), sizes, ages, places, *keyed, *_bodies(requests))
    bases = row["bases"]
    return Kept(writes, row["offsets"], [bases[place - 1] for place in places], row["moment"], row["era"])


def _bodies(requests: Sequence[PublishRequest]) -> tuple[list[int], list[bytes], list[bytes]]:
    """Return formats, data and metas; no metas where all are empty, because each takes the driver its time."""
    metas = [request.meta for request in requests]
    formats: list[int] = [request.format for request in requests]
    return formats, [request.data for request in requests], metas if any(metas) else []
