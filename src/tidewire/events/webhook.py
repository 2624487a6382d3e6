"""Sends events to a URL: signed, in batches, for a day again if it fails, and not into private networks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import hmac
import ipaddress
import logging
import random
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import ConfigurationError, TidewireError
from tidewire.events.event_kinds import Event, Interest
from tidewire.events.event_stream import Cursor, events_of
from tidewire.messages import Position
from tidewire.support.shown_value import shown_url

__all__ = ("Webhook", "WebhookDelivery", "is_public", "signature")

logger = logging.getLogger("tidewire")

#: Events of one request, seconds for which more are waited for, for an answer, and for which a batch is tried.
_MOST, _GATHER_SECONDS, _ANSWER_SECONDS, _DAY = 100, 0.2, 10.0, 86_400.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
#: The errors of `send`; a ValueError means an invalid answer, or a name that cannot be looked up.
NOT_TAKEN = (OSError, TimeoutError, TidewireError, ValueError)
#: Networks that are not public, although Python 3.11 takes some for it: IPv4-compatible, IPv4-translated, site-local,
#: local NAT64.
_PRIVATE = [ipaddress.IPv6Network(one) for one in ("::/96", "::ffff:0:0:0/96", "fec0::/10", "64:ff9b:1::/48")]
#: IPv6 addresses that stand for an IPv4 address: their last 32 bits (RFC 6052).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an address is public, and so is the IPv4 address for which it may stand."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if any(found in network for network in _PRIVATE):
            return False
    return found.is_global and not found.is_multicast


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the `Tidewire-Signature`: `v1=` and HMAC-SHA256 of the timestamp, a point and the body, in hex."""
    return "v1=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


class Webhook:
    """The URL that events are sent to, and their kinds. Raises ConfigurationError for a URL that cannot work."""

    def __init__(self, url: str, secret: str, interests: Sequence[Interest], *, allow_private: bool) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"webhook {shown_url(url)} is no URL; write https://example.org/events")
        try:
            parts.port, url.encode("ascii"), parts.hostname.encode("idna")
        except ValueError:
            raise ConfigurationError(
                f"webhook {shown_url(url)} has a host, a port or characters that cannot be used; write "
                "https://example.org/events, and others than ASCII as %C3%BC"
            ) from None
        if " " in url:
            raise ConfigurationError(f"webhook {shown_url(url)} has a space; write %20")
        if not secret:
            raise ConfigurationError("a webhook needs secret=…: its receiver tells by the signature who has sent it")
        self._secret = secret
        self.interests = interests
        self._parts = parts
        self._allow_private = allow_private
        self.name = hashlib.sha256(url.encode()).hexdigest()[:16]
        #: The URL without its secrets.
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def wants(self, event: Event) -> bool:
        """Return whether an event is to be sent."""
        return any(interest.match(event.kind, event.channel) is not None for interest in self.interests)

    async def send(self, events: Sequence[Event]) -> None:
        """Send one batch; raises one of NOT_TAKEN if it was not taken."""
        body = msgspec.json.encode({"events": events})
        timestamp = str(int(time.time()))
        parts = self._parts
        is_secure = parts.scheme == "https"
        port = parts.port or (443 if is_secure else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = (
            f"POST {path} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "User-Agent: tidewire",
            f"Tidewire-Timestamp: {timestamp}",
            f"Tidewire-Signature: {signature(self._secret, timestamp, body)}",
            *_credentials(parts),
            "Connection: close",
        )
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await self._connect(port, is_secure=is_secure)
            try:
                writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
                await writer.drain()
                status = (await reader.readline()).split(b" ", 2)
            except BaseException:
                writer.transport.abort()  # closing alone would wait for a receiver that reads nothing
                raise
            finally:
                writer.close()
        if len(status) < 2 or not status[1].startswith(b"2"):
            raise TidewireError(f"it answered {status[1].decode('latin-1') if len(status) > 1 else 'nothing'}")

    async def _connect(self, port: int, *, is_secure: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that answers; a name may have addresses of IPv6 and IPv4."""
        context = _trusted() if is_secure else None
        name = self._parts.hostname if is_secure else None
        *others, last = await self._addresses(port)
        for address in others:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_ANSWER_SECONDS / 2 / len(others)):
                    return await asyncio.open_connection(address, port, ssl=context, server_hostname=name)
        return await asyncio.open_connection(last, port, ssl=context, server_hostname=name)

    async def _addresses(self, port: int) -> list[str]:
        """Return the addresses to connect to, looked up once, so that only addresses that were judged are used."""
        found = await asyncio.get_running_loop().getaddrinfo(self._parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [str(one[4][0]) for one in found]
        if not self._allow_private:
            addresses = list(filter(is_public, addresses))
        if not addresses:
            raise TidewireError("it has no public address; allow_private=True sends to others")
        return addresses


def _credentials(parts: SplitResult) -> list[str]:
    """Return the header that says the user and the password of a URL, if it has any."""
    if parts.username is None:
        return []
    said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [f"Authorization: Basic {base64.b64encode(said.encode()).decode()}"]


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the context with the trusted certificates, made once, because reading them takes the loop's time."""
    return ssl.create_default_context()


class WebhookDelivery:
    """Consumes events for one webhook, on one node."""

    def __init__(self, node: Node, webhook: Webhook, woken: asyncio.Event) -> None:
        self._node = node
        self._webhook = webhook
        self._woken = woken
        self._consumer = f"webhook:{webhook.name}"
        self._cursor = Cursor(node, self._consumer)
        self._waiting: asyncio.Queue[tuple[Position, Event]] = asyncio.Queue(2 * _MOST)

    async def run(self) -> None:
        """Send events until cancelled; raises StoreUnavailable."""
        since = await self._cursor.load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_all())
            async for item in events_of(self._node, self._consumer, since, self._woken):
                await self._waiting.put(item)

    async def _send_all(self) -> None:
        while True:
            position, event = await self._waiting.get()
            wanted: list[Event] = []
            end = asyncio.get_running_loop().time() + _GATHER_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    while True:
                        if self._webhook.wants(event):
                            wanted.append(event)
                        if len(wanted) == _MOST:
                            break
                        position, event = await self._waiting.get()
            if wanted:
                await self._send(wanted)
            await self._cursor.save(position)

    async def _send(self, events: Sequence[Event]) -> None:
        pause, began, is_failing = _FIRST_PAUSE, time.monotonic(), False
        while time.monotonic() < began + _DAY:
            try:
                await self._webhook.send(events)
            except NOT_TAKEN as error:
                if not is_failing:
                    logger.warning("webhook %s is tried again for a day: %s", self._webhook.shown, error)
                is_failing = True
                await asyncio.sleep(pause * (0.5 + random.random() / 2))
                pause = min(_LONGEST_PAUSE, 2 * pause)
            else:
                if is_failing:
                    logger.warning("webhook %s takes events again", self._webhook.shown)
                return
        logger.error("webhook %s took nothing for a day; %d events are given up", self._webhook.shown, len(events))
