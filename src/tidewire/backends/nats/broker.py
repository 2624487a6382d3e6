"""The broker on NATS JetStream: one stream holds all channels, and its republished messages are delivered live."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator, Sequence

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.connection import Connection
from tidewire.backends.nats.delivery import EPHEMERAL, Delivery
from tidewire.backends.nats.housekeeping import GrowthMarks, Trimmer, remove_all
from tidewire.backends.nats.jetstream import Stamp, StreamConfig, parse_time
from tidewire.backends.nats.publication_stream import WINDOW_SECONDS, Stream, is_limited, open_stream
from tidewire.backends.nats.publishing import KeyedWrite, Publishing
from tidewire.backends.nats.reading import read_history, top_of
from tidewire.backends.nats.removals import RemovalWatch, begin_epoch, begin_notes
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.nats.session import Session, Unsendable
from tidewire.backends.shared.growth import Growth, StoreBound, size_of
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.relayed import pack_ephemeral
from tidewire.backends.shared.waiting import not_published
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import EphemeralPublication, HistoryPage, HistoryRequest, Position, PublishRequest
from tidewire.support.counters import count_limit

__all__ = ("NatsBroker",)

logger = logging.getLogger("tidewire")

#: Bytes of one message of publications that nobody keeps, about.
_RELAYED = 65_536
#: Questions for positions that are under way at once.
_ASKED = 128
#: Seconds between two words of `resumed` because of dropped messages.
_DROPPED = 0.5
#: The first version with the fixes for streams that a crash damaged, and with `sync_interval` (docs/howto/nats.md).
_FIXED, _CAN_SYNC = (2, 10, 23), (2, 10, 0)


class NatsBroker(Broker):
    """Keeps publications in a JetStream stream: `publish` returns when the server has acknowledged it.

    All nodes that name the same stream on the same servers are one store.
    """

    shared = True
    kept = "acknowledged by JetStream"

    def __init__(self, address: NatsAddress, limits: Limits, outage: Outage | None = None) -> None:
        self._address = address
        self._limits = limits
        self._clock = StoreClock()
        self._is_open = False
        self._connection = Connection(
            address,
            limits.publish_seconds,
            prepare=self._prepare,
            probe=self._probe,
            lost=self._lost,
            restored=self._restored,
            outage=outage or Outage(f"NATS at {address.shown}"),
        )
        #: The newest message that this node knows to be kept: its sequence, and the time it was stamped with.
        self._newest = (0, 0.0)
        self._growth = Growth(limits.channel_history_bytes, self._bound)
        self._store_bound = StoreBound(
            limits.store_history_bytes, lambda limit: self._trimmer.bound(self._ready(), limit)
        )
        self._marks = GrowthMarks()
        self._epoch = ""
        self._removals = RemovalWatch()
        self._dropped_at = 0.0
        #: The mark of this node's own messages, those that wait to be sent, and the task that sends them.
        self._node = secrets.token_hex(8)
        self._relayed: list[EphemeralPublication] = []
        self._relaying: asyncio.Task[None] | None = None

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._is_open:
            return
        self._resumed = resumed
        self._delivery = Delivery(self._clock, deliver, self._remember, self._node)
        self._publishing = Publishing(
            self._limits.publish_seconds,
            self._clock,
            is_expired=self._is_key_expired,
            failed=self._connection.fail,
            kept=self._remember,
            newest=lambda: self._newest[0],
        )
        self._trimmer = Trimmer(self._clock)
        await self._connection.start()
        self._publishing.open(self._stream)
        self._trimmer.start(lambda: self._stream if self._connection.is_up else None)
        self._store_bound.start()
        self._is_open = True

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._store_bound.aclose()
        await self._growth.aclose()
        await self._trimmer.aclose()
        await self._publishing.aclose()
        if self._relaying is not None:
            await asyncio.wait([self._relaying], timeout=self._limits.publish_seconds)
        await self._wait_arrived()
        await self._connection.aclose()
        self._delivery.close()

    async def _wait_arrived(self) -> None:
        """Return when everything is delivered that the server sent before its last acknowledgement."""
        end = asyncio.get_running_loop().time() + self._limits.publish_seconds
        while self._connection.is_up and not self._delivery.has_arrived:
            if asyncio.get_running_loop().time() > end:
                logger.warning("NATS at %s: closing before everything that came was delivered", self._address.shown)
                break
            await asyncio.sleep(0.001)

    # The session.

    async def _prepare(self, session: Session) -> None:
        """Prepare a new session: check the stream, and subscribe to the same channels as before."""
        stream = await open_stream(session, self._address)
        if stream.epoch == self._epoch and not await self._is_whole(stream):
            await begin_epoch(session, self._address, stream.epoch)
            stream = await open_stream(session, self._address)
        is_new = stream.epoch != self._epoch
        if is_new:
            self._newest = (0, 0.0)
            self._marks = GrowthMarks()
            self._removals = RemovalWatch()
            await begin_notes(stream)
        self._stream, self._epoch = stream, stream.epoch
        session.on_dropped = self._dropped
        self._clock.set(await stream.time())
        await self._delivery.resume(stream, is_new=is_new)

    async def _is_whole(self, stream: Stream) -> bool:
        """Return whether the stream has everything that it had: after a crash of the machine its end may be missing."""
        seq, stamped = self._newest
        if not seq:
            return True
        message = await stream.get(seq=seq)
        if message is None:
            return (await stream.state()).last_seq >= seq
        return Stamp.read(message.headers, 0.0).time == stamped

    async def _probe(self, session: Session) -> None:
        """Check that the stream still has its messages; else a new epoch begins."""
        stream, (newest, _) = self._stream, self._newest
        if (await stream.state()).last_seq < newest:
            raise StoreUnavailable(f"the stream {stream.name} has lost its newest messages")
        if await self._removals.is_foreign(stream):
            await begin_epoch(session, self._address, stream.epoch)
            raise StoreUnavailable(f"somebody else has removed messages of the stream {stream.name}")

    def _lost(self, reason: str) -> None:
        self._publishing.lost(reason)

    def _restored(self) -> None:
        self._publishing.open(self._stream)
        self._resumed()

    def _dropped(self) -> None:
        """Read from history the messages that the driver has dropped, because this process was too slow."""
        count_limit("deliveries_waiting")
        now = asyncio.get_running_loop().time()
        if now - self._dropped_at >= _DROPPED:
            self._dropped_at = now
            logger.warning("messages came from NATS faster than this process took them; they are read from history")
            asyncio.get_running_loop().call_later(_DROPPED, self._resumed)

    def _remember(self, seq: int, stamped: float) -> None:
        if seq > self._newest[0]:
            self._newest = (seq, stamped)

    # Publishing.

    def publish(self, request: PublishRequest) -> asyncio.Future[Position]:
        if not self._is_open:
            raise NotPublished("the broker is not open; publish between its start and its close")
        if not self._connection.is_up:
            raise not_published(f"NATS at {self._address.shown} is away ({self._connection.trouble})")
        self._marks.add(request.channel, size_of(request))
        self._growth.add(request)
        return self._publishing.submit(request)

    async def _bound(self, channel: str, limit: int) -> bool:
        return await self._marks.bound(self._ready(), channel, limit)

    def relay(self, publications: Sequence[EphemeralPublication]) -> None:
        if not self._is_open or not self._connection.is_up:
            count_limit("relay")
            return
        self._relayed += publications
        if self._relaying is None or self._relaying.done():
            self._relaying = asyncio.create_task(self._relay())

    async def _relay(self) -> None:
        """Send to the subjects of live publications; those that come meanwhile go next, in their order."""
        while self._relayed:
            taken, self._relayed = self._relayed, []
            by_channel: dict[str, list[EphemeralPublication]] = {}
            for one in taken:
                by_channel.setdefault(one.channel, []).append(one)
            stream = self._stream
            try:
                for channel, ones in by_channel.items():
                    for payload in pack_ephemeral(self._node, ones, _RELAYED):
                        await stream.session.publish(stream.live(channel), payload, {EPHEMERAL: self._node})
            except Unsendable:
                count_limit("relay")

    async def _is_key_expired(self, stream: Stream, write: KeyedWrite, seq: int) -> bool:
        message = await stream.get(seq=seq)
        return message is not None and self._clock.now() - parse_time(message.time) > write.request.key_age

    async def remove_history(self, channel: str) -> None:
        await remove_all(self._ready(), self._ready().stored(channel))

    # Subscriptions.

    async def subscribe(self, channel: str) -> Position:
        return await self._delivery.subscribe(self._ready(), channel)

    async def unsubscribe(self, channel: str) -> None:
        if self._is_open:
            await self._delivery.unsubscribe(channel, self._stream if self._connection.is_up else None)

    # Reading.

    def _ready(self) -> Stream:
        if not self._is_open:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")
        self._connection.session  # noqa: B018  (raises while there is none)
        return self._stream

    async def _top(self, stream: Stream, channel: str) -> Position:
        return Position(top_of(await stream.last(stream.stored(channel))), stream.epoch)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        return await read_history(self._ready(), request, self._limits.publish_seconds, self._clock)

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        stream = self._ready()
        found: dict[str, Position] = {}
        for start in range(0, len(channels), _ASKED):
            names = channels[start : start + _ASKED]
            tops = await asyncio.gather(*(self._top(stream, name) for name in names))
            found.update(zip(names, tops, strict=True))
        return found

    async def describe(self) -> tuple[str, ...]:
        stream = self._ready()
        answer = await stream.info()
        ahead = await stream.time() - time.time()
        return (
            f"nats-server {'.'.join(map(str, stream.session.version))} at {self._address.shown}",
            f"stream {stream.name}: {answer.state.messages} messages, {answer.config.storage} storage, "
            f"{answer.config.num_replicas} replicas, epoch {stream.epoch}",
            f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's",
        )

    async def advise(self) -> tuple[str, ...]:
        stream = self._ready()
        config = (await stream.info()).config
        return tuple(_advice(config, stream, is_local=self._is_local()))

    def _is_local(self) -> bool:
        return all(name.startswith(("127.", "localhost", "[::1]")) for name in self._address.shown.split(","))


def _advice(config: StreamConfig, stream: Stream, *, is_local: bool) -> Iterator[str]:
    version = stream.session.version
    words = f"nats-server {'.'.join(map(str, version))}"
    if version < _FIXED:
        yield f"{words} is damaged by crashes: a killed server may lose streams; use 2.10.23 or a newer one"
    if version < _CAN_SYNC:
        yield f"{words} syncs to disk every 2 minutes: a power loss takes the last messages; 2.10 can sync always"
    else:
        yield "without `sync_interval: always` in its jetstream block a power loss takes the last 2 minutes"
    if config.num_replicas == 1:
        yield "the stream has one replica: while its server is away nothing can be published (?replicas=3 in a cluster)"
    if config.sealed:
        yield f"the stream {stream.name} is sealed: nothing can be published; remove it, or name another (?stream=NAME)"
    if config.no_ack:
        yield f"the stream {stream.name} acknowledges nothing: no publish is ever confirmed; set its no_ack to false"
    if config.duplicate_window < WINDOW_SECONDS * 1e9:
        yield (
            f"the stream {stream.name} remembers keys for {config.duplicate_window / 1e9:g} s: a publication that "
            f"is repeated later with its key is kept twice; set its duplicate window to {WINDOW_SECONDS:g} s"
        )
    if config.max_msg_size > 0:
        yield f"the stream {stream.name} refuses messages of more than {config.max_msg_size} bytes; remove max_msg_size"
    if is_limited(config):
        yield f"the stream {stream.name} has limits of its own: history may be shorter than channels say; remove them"
    if stream.session.is_plain and not is_local:
        yield "the connection to NATS is not encrypted; write tls:// in the URL"
