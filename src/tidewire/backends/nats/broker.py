"""The broker on NATS JetStream: one stream holds all channels, and its republished messages carry them live."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

from nats.aio.msg import Msg

from tidewire.backends.base import Broker, Deliver, Resumed, nothing_to_resume
from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.connection import Uplink
from tidewire.backends.nats.housekeeping import Trimmer
from tidewire.backends.nats.jetstream import (
    LAST_SEQUENCE,
    REMOVED,
    SEQUENCE,
    STAMP,
    Stamp,
    StreamConfig,
    parse_time,
)
from tidewire.backends.nats.ordering import Carried
from tidewire.backends.nats.publication_stream import Stream, begin_epoch, is_limited, open_stream
from tidewire.backends.nats.publishing import Publishing, Write
from tidewire.backends.nats.reading import HistoryQuery, read_history, top_of
from tidewire.backends.nats.removing import remove_all
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.nats.session import Session
from tidewire.backends.shared.outage import Outage
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.messages import HistoryPage, Position, Publication, PublishRequest, Retention
from tidewire.options import Limits
from tidewire.support.counters import count_limit

__all__ = ("NatsBroker",)

logger = logging.getLogger("tidewire")

#: Questions for positions that are under way at once.
_ASKED = 128
#: Seconds for which a message waits for an earlier one of its channel.
_PATIENCE = 0.1
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
        self._carried: dict[str, Carried] = {}
        self._uplink = Uplink(
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
        self._epoch = ""
        self._told_dropped = 0.0

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        if self._is_open:
            return
        self._deliver, self._resumed = deliver, resumed
        self._publishing = Publishing(
            self._limits.publish_seconds,
            self._clock,
            is_expired=self._is_key_expired,
            failed=self._uplink.fail,
            kept=self._remember,
        )
        self._trimmer = Trimmer(self._clock)
        await self._uplink.start()
        self._publishing.open(self._stream)
        self._trimmer.start(lambda: self._stream if self._uplink.is_up else None)
        self._is_open = True

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._trimmer.aclose()
        await self._publishing.aclose()
        await self._take_what_came()
        await self._uplink.aclose()
        self._carried.clear()

    async def _take_what_came(self) -> None:
        """Deliver what the server sent before its last acknowledgement."""
        subscriptions = [carried.subscription for carried in self._carried.values()]
        end = asyncio.get_running_loop().time() + self._limits.publish_seconds
        while self._uplink.is_up and any(one is not None and one.pending_msgs for one in subscriptions):
            if asyncio.get_running_loop().time() > end:
                logger.warning("NATS at %s: closing before everything that came was delivered", self._address.shown)
                break
            await asyncio.sleep(0.001)
        for carried in self._carried.values():
            if carried.giving_up is not None:
                carried.giving_up.cancel()
                self._give_up(carried)

    # The session.

    async def _prepare(self, session: Session) -> None:
        """Make a new session carry what the last one did."""
        stream = await open_stream(session, self._address)
        if stream.epoch == self._epoch and not await self._is_whole(stream):
            await begin_epoch(session, self._address, stream.epoch)
            stream = await open_stream(session, self._address)
        is_new = stream.epoch != self._epoch
        if is_new:
            self._newest = (0, 0.0)
        self._stream, self._epoch = stream, stream.epoch
        session.on_dropped = self._dropped
        self._clock.set(await stream.time())
        for channel, carried in tuple(self._carried.items()):
            if is_new:
                carried.forget()
                carried.settle(0, 0)
            if self._carried.get(channel) is carried:  # it may have been given up meanwhile
                await self._listen(stream, channel, carried)

    async def _is_whole(self, stream: Stream) -> bool:
        """Say whether the stream still has what it had: after a crash of the machine its end may be missing."""
        seq, stamped = self._newest
        if not seq:
            return True
        message = await stream.get(seq=seq)
        if message is None:
            return (await stream.state()).last_seq >= seq
        return Stamp.read(message.headers, 0.0).time == stamped

    async def _probe(self, session: Session) -> None:
        await self._stream.state()

    def _lost(self, reason: str) -> None:
        self._publishing.lost(reason)

    def _restored(self) -> None:
        self._publishing.open(self._stream)
        self._resumed()

    def _dropped(self) -> None:
        """Messages were dropped on the way, because this process was too slow: they are in the history."""
        count_limit("carriage_waiting")
        now = asyncio.get_running_loop().time()
        if now - self._told_dropped >= _DROPPED:
            self._told_dropped = now
            logger.warning("messages came from NATS faster than this process took them; they are read from history")
            asyncio.get_running_loop().call_later(_DROPPED, self._resumed)

    def _remember(self, seq: int, stamped: float) -> None:
        if seq > self._newest[0]:
            self._newest = (seq, stamped)

    # Publishing.

    async def publish(self, request: PublishRequest) -> Position:
        if not self._is_open:
            raise NotPublished("the broker is not open; publish between its start and its close")
        if not self._uplink.is_up:
            raise NotPublished(f"not published: NATS at {self._address.shown} is away ({self._uplink.trouble})")
        try:
            request.channel.encode()
            request.key.encode()
        except UnicodeEncodeError as error:
            raise NotPublished(f"channel {request.channel!r} or its key is not valid Unicode; mend the name") from error
        return await self._publishing.submit(request)

    async def _is_key_expired(self, stream: Stream, write: Write, seq: int) -> bool:
        message = await stream.get(seq=seq)
        return message is not None and self._clock.now() - parse_time(message.time) > write.request.key_age

    async def remove_history(self, channel: str) -> None:
        await remove_all(self._ready(), self._ready().stored(channel))

    # Carrying.

    async def subscribe(self, channel: str) -> Position:
        stream = self._ready()
        carried = self._carried.get(channel)
        is_new = carried is None
        if carried is None:
            carried = self._carried[channel] = Carried()
        try:
            if is_new:
                await self._listen(stream, channel, carried)
            last = await stream.last(stream.stored(channel))
        except BaseException:
            if is_new:
                await self.unsubscribe(channel)
            raise
        position = Position(top_of(last), stream.epoch)
        self._hand_over(carried.settle(0 if last is None else last.seq, position.offset))
        return position

    async def _listen(self, stream: Stream, channel: str, carried: Carried) -> None:
        async def arrive(msg: Msg) -> None:
            self._arrive(stream.epoch, channel, carried, msg)

        carried.subscription = await stream.session.subscribe(stream.carried(channel), arrive, may_drop=True)

    async def unsubscribe(self, channel: str) -> None:
        carried = self._carried.pop(channel, None)
        if carried is not None and carried.subscription is not None and self._uplink.is_up:
            await self._stream.session.unsubscribe(carried.subscription)

    def _arrive(self, epoch: str, channel: str, carried: Carried, msg: Msg) -> None:
        headers = msg.headers
        if headers is None or SEQUENCE not in headers or LAST_SEQUENCE not in headers:
            return  # somebody else's: the stream's own always say which they are
        offset, previous = int(headers[SEQUENCE]), int(headers[LAST_SEQUENCE])
        if REMOVED in headers:
            self._hand_over(carried.take_marker(offset, previous, int(headers[REMOVED])))
            return
        stamp = Stamp.read(headers, self._clock.now())
        if STAMP in headers:
            self._remember(offset, stamp.time)
        self._hand_over(carried.take(previous, stamp.publication(channel, offset, previous, epoch, msg.data)))
        if carried.is_waiting and carried.giving_up is None:
            loop = asyncio.get_running_loop()
            carried.giving_up = loop.call_later(_PATIENCE, self._give_up, carried)

    def _give_up(self, carried: Carried) -> None:
        carried.giving_up = None
        self._hand_over(carried.give_up())

    def _hand_over(self, publications: Sequence[Publication]) -> None:
        if not publications:
            return
        try:
            self._deliver(publications)
        except Exception:
            logger.exception("a delivery of %d publications failed", len(publications))

    # Reading.

    def _ready(self) -> Stream:
        if not self._is_open:
            raise StoreUnavailable("the broker is not open; use it between its start and its close")
        self._uplink.session  # noqa: B018  (raises while there is none)
        return self._stream

    async def _top(self, stream: Stream, channel: str) -> Position:
        return Position(top_of(await stream.last(stream.stored(channel))), stream.epoch)

    async def history(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
        retention: Retention | None = None,
    ) -> HistoryPage:
        query = HistoryQuery(channel, since, None if limit is None else max(0, limit), reverse, retention)
        return await read_history(self._ready(), query, self._limits.publish_seconds, self._clock)

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
        yield (
            f"{words} is older than what a crash no longer damages (2.10.23): a killed server may lose streams; "
            "use a newer one"
        )
    if version < _CAN_SYNC:
        yield f"{words} syncs to disk every 2 minutes: a power loss takes what came last; newer ones can sync always"
    else:
        yield "without `sync_interval: always` in its jetstream block a power loss takes the last 2 minutes"
    if config.num_replicas == 1:
        yield "the stream has one replica: while its server is away nothing can be published (?replicas=3 in a cluster)"
    if is_limited(config):
        yield f"the stream {stream.name} has limits of its own: history may be shorter than channels say; remove them"
    if stream.session.is_plain and not is_local:
        yield "what goes to NATS is not encrypted; write tls:// in the URL"
