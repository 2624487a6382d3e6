"""A trial: a client of this module's own is cut off, and counts the messages that it missed and that it recovered."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from fastapi import Request
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tidewire.errors import BadRequest, NotAvailable

__all__ = ("Outcome", "note_address", "try_cut")

#: Seconds for an answer, and for the rest of a recovery.
_PATIENCE = 10.0
#: The headers by which an application may know its caller.
_OWN_HEADERS = ("authorization", "cookie")


class _Address(NamedTuple):
    """The address of the playground's clients, as the request that is being answered has come to it."""

    url: str
    headers: Mapping[str, str]


_address: ContextVar[_Address] = ContextVar("tidewire.trial")


class Outcome(NamedTuple):
    """The messages of a client; `complete`: the server says that all were recovered."""

    missed: int
    recovered: int
    doubled: int
    in_order: bool
    complete: bool


async def note_address(request: Request) -> None:
    """Note the URL at which clients of this playground connect; a dependency of its calls."""
    scheme = "wss" if request.url.scheme == "https" else "ws"
    host, port = request.scope.get("server") or ("127.0.0.1", 80)
    path = request.url.path.rpartition("/api")[0]
    headers = {name: request.headers[name] for name in _OWN_HEADERS if name in request.headers}
    place = f"[{host}]" if ":" in host else host
    _address.set(_Address(f"{scheme}://{place}:{port}{path}/connection", headers))


async def try_cut(
    user: str, channel: str, cut: Callable[[str], Awaitable[None]], publish: Callable[[], Awaitable[list[int]]]
) -> Outcome:
    """Subscribe to a channel as a user, be cut off, and come back.

    `cut` is given the id of the connection; `publish` returns the offsets of its publications.
    Raises BadRequest where the user may not subscribe.
    """
    async with _open(user) as socket:
        first = _Subscriber(socket, channel)
        await first.subscribe({})
        await cut(first.client)
        published = set(await publish())
        await first.read_to_the_end()
    since = {"recover": True, "offset": first.offset, "epoch": first.epoch}
    async with _open(user) as socket:
        second = _Subscriber(socket, channel)
        await second.subscribe(since)
        if second.recovered:
            await second.read_until(published - set(first.got))
    got = Counter(offset for offset in (*first.got, *second.got) if offset in published)
    missed = published - set(first.got)
    return Outcome(
        missed=len(missed),
        recovered=len(missed & set(second.got)),
        doubled=sum(count - 1 for count in got.values()),
        in_order=second.got == sorted(second.got),
        complete=second.recovered,
    )


@asynccontextmanager
async def _open(user: str) -> AsyncIterator[ClientConnection]:
    address = _address.get()
    context = None
    if address.url.startswith("wss:"):  # its own certificate is for another name than that of this machine
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"{address.url}?user={quote(user, safe='')}"
    try:
        async with connect(url, additional_headers=address.headers, proxy=None, ssl=context) as socket:
            yield socket
    except (OSError, InvalidHandshake) as error:
        raise NotAvailable(f"a client of the trial cannot connect to {address.url}: {error}") from None


class _Subscriber:
    """One connection in one channel (the Centrifuge protocol in JSON), and the offsets that came."""

    def __init__(self, socket: ClientConnection, channel: str) -> None:
        self._socket = socket
        self._channel = channel
        self.client = self.epoch = ""
        self.offset = 0
        self.recovered = False
        self.got: list[int] = []

    async def subscribe(self, since: Mapping[str, Any]) -> None:
        """Connect and subscribe; raises BadRequest when that is refused."""
        asked = {"channel": self._channel, "recoverable": True, **since}
        lines = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": asked})
        await self._socket.send(b"\n".join(map(msgspec.json.encode, lines)).decode())
        try:
            async with asyncio.timeout(_PATIENCE):
                while not self.epoch:
                    await self._read()
        except (TimeoutError, ConnectionClosed) as error:
            raise NotAvailable(f"the client of the trial was not answered: {error!r}") from None

    async def read_to_the_end(self) -> None:
        """Read until the connection ends."""
        try:
            while True:
                await self._read()
        except ConnectionClosed:
            return

    async def read_until(self, wanted: set[int]) -> None:
        """Read until all expected messages came, or no more come."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not wanted <= set(self.got):
                    await self._read()
        except (TimeoutError, ConnectionClosed):
            return

    async def _read(self) -> None:
        for line in str(await self._socket.recv()).split("\n"):
            message = msgspec.json.decode(line)
            if not message:
                await self._socket.send("{}")
            elif "error" in message:
                raise BadRequest(f"the client of the trial is refused: {message['error']['message']}")
            elif "connect" in message:
                self.client = message["connect"]["client"]
            elif "subscribe" in message:
                self._subscribed(message["subscribe"])
            elif message.get("push", {}).get("channel") == self._channel and "pub" in message["push"]:
                self._took(message["push"]["pub"])

    def _subscribed(self, answer: Mapping[str, Any]) -> None:
        self.offset, self.epoch = answer.get("offset", 0), answer.get("epoch", "")
        if not self.epoch:
            raise BadRequest(f"nothing can be recovered in {self._channel!r}; give its rule a history")
        self.recovered = answer.get("recovered", False)
        for publication in answer.get("publications", ()):
            self._took(publication)

    def _took(self, publication: Mapping[str, Any]) -> None:
        if "offset" in publication:
            self.got.append(publication["offset"])
            self.offset = max(self.offset, publication["offset"])
