"""Delivers publications from Redis to this node, by pub/sub on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter

from redis.exceptions import ResponseError

from tidewire.backends.base import Deliver
from tidewire.backends.redis.connection import Connection, Dial, User
from tidewire.backends.redis.driver import Command, Reply, Session, pack
from tidewire.backends.redis.entries import EPHEMERAL, unpack_message
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.requests import Requests
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.relayed import unpack_ephemeral
from tidewire.errors import StoreUnavailable

__all__ = ("Delivery",)

logger = logging.getLogger("tidewire")

#: Channels in one SUBSCRIBE.
_CHUNK = 500
#: Seconds between pings of a connection on which nothing else asks.
_PING = 1.0
_PACKED_PING = pack([["PING"]])


class Delivery(User):
    """Subscribes and delivers; after an interruption it subscribes again and calls `opened`."""

    def __init__(
        self,
        shown: str,
        dial: Dial,
        outage: Outage,
        patience: float,
        keys: Keys,
        deliver: Deliver,
        opened: Callable[[], None],
        node: str,
    ) -> None:
        self.connection = Connection(shown, dial, outage, patience, self)
        self._keys = keys
        self._deliver = deliver
        self._on_opened = opened
        self._node = node
        #: Names of pub/sub → the subscribed channels.
        self._channels: dict[bytes, str] = {}
        #: Names of pub/sub → the markers that have come there.
        self._markers: dict[bytes, asyncio.Semaphore] = {}
        self._asking: dict[bytes, deque[asyncio.Future[None]]] = {}
        self._pongs: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._orders: list[tuple[str, bytes]] = []
        self._is_flushing = False
        self._pinging: asyncio.TimerHandle | None = None
        self._is_overdue = False

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel; return when everything that is published from now on is delivered.

        Raises StoreUnavailable.
        """
        if not self.connection.is_open:
            raise StoreUnavailable(self.connection.trouble)
        name = self._keys.pubsub(channel).encode()
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        is_new = name not in self._channels
        self._channels[name] = channel
        self._asking.setdefault(name, deque()).append(confirmed)
        self._order("SUBSCRIBE", name)
        try:
            async with asyncio.timeout(self.connection.patience):
                await confirmed
        except BaseException as error:
            if is_new:
                self.unsubscribe(channel)
            if isinstance(error, TimeoutError):
                shown, patience = self.connection.shown, self.connection.patience
                raise StoreUnavailable(f"{shown} does not answer within {patience:g} s") from None
            raise

    def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel."""
        name = self._keys.pubsub(channel).encode()
        if self._channels.pop(name, None) is not None and self.connection.is_open:
            self._order("UNSUBSCRIBE", name)

    async def wait_delivered(self, servers: Sequence[Requests]) -> None:
        """Return when everything is delivered that these connections have published; raises StoreUnavailable.

        Each server passes its publications on in their order, so a marker that it publishes now comes behind them.
        """
        if not self.connection.is_open:
            return
        channel = f"$delivered:{secrets.token_hex(8)}"
        name = self._keys.pubsub(channel).encode()
        self._markers[name] = markers = asyncio.Semaphore(0)
        try:
            await self.subscribe(channel)
            for requests in servers:
                await requests.run(["PUBLISH", name, b""])
            for _ in servers:
                await markers.acquire()
        finally:
            del self._markers[name]
            self.unsubscribe(channel)

    def _order(self, verb: str, name: bytes) -> None:
        self._orders.append((verb, name))
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send the orders of one turn of the loop, in their order."""
        self._is_flushing = False
        orders, self._orders = self._orders, []
        session = self.connection.session
        if session is None or not self.connection.is_open:
            return
        for verb, run in groupby(orders, key=itemgetter(0)):
            session.send(pack(_in_chunks(verb, [name for _, name in run])))

    # For the connection.

    async def prepare(self, session: Session) -> None:
        session.send(pack(_in_chunks("SUBSCRIBE", list(self._channels))))
        await self._ping(session)

    def opened(self) -> None:
        self._keep_pinging()
        self._on_opened()

    async def _ping(self, session: Session) -> None:
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send_ping(session, pong)
        await pong

    def _send_ping(self, session: Session, pong: asyncio.Future[None]) -> None:
        self._pongs.append((asyncio.get_running_loop().time() + self.connection.patience, pong))
        session.send(_PACKED_PING)

    def _keep_pinging(self) -> None:
        """Notice a server that is silent because it hangs, or because the network is cut."""
        loop = asyncio.get_running_loop()
        was_overdue, self._is_overdue = self._is_overdue, bool(self._pongs and self._pongs[0][0] < loop.time())
        if was_overdue and self._is_overdue:  # twice: see Requests
            self.connection.renew(f"it did not answer within {self.connection.patience:g} s")
            return
        session = self.connection.session
        if session is not None and not self._pongs:
            self._send_ping(session, loop.create_future())
        self._pinging = loop.call_later(_PING, self._keep_pinging)

    def lost(self, reason: str) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        self._orders.clear()
        asking, self._asking = self._asking, {}
        pongs, self._pongs = self._pongs, deque()
        for future in (*(one for asked in asking.values() for one in asked), *(pong for _, pong in pongs)):
            if not future.done():
                future.set_exception(StoreUnavailable(reason))
                future.exception()

    def take(self, reply: Reply) -> None:
        if isinstance(reply, ResponseError):
            self.connection.renew(f"it answers {str(reply)!r}")
            return
        if reply == b"PONG" or (isinstance(reply, list) and reply[0] == b"pong"):
            self._confirm(self._pongs.popleft()[1])
            return
        assert isinstance(reply, list)
        if reply[0] == b"message":
            self._arrive(reply[1], reply[2])
        elif reply[0] == b"subscribe":
            asked = self._asking.get(reply[1])
            if asked:
                self._confirm(asked.popleft())
                if not asked:
                    del self._asking[reply[1]]

    @staticmethod
    def _confirm(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    def _arrive(self, name: bytes, payload: bytes) -> None:
        markers = self._markers.get(name)
        if markers is not None:
            markers.release()
            return
        channel = self._channels.get(name)
        if channel is None:
            self._order("UNSUBSCRIBE", name)  # it was given up while the connection was made again
            return
        try:
            if payload.startswith(EPHEMERAL):
                self._deliver(unpack_ephemeral(payload[len(EPHEMERAL) :], self._node))
            else:
                self._deliver(tuple(unpack_message(channel, payload)))
        except Exception:
            logger.exception("a delivery in channel %r failed", channel)


def _in_chunks(verb: str, names: Sequence[bytes]) -> list[Command]:
    return [[verb, *names[start : start + _CHUNK]] for start in range(0, len(names), _CHUNK)]
