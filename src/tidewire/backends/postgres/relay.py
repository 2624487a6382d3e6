"""Passes ephemeral publications from node to node by NOTIFY: no table is touched, and its commit waits for no disk."""

from __future__ import annotations

import asyncio
import logging
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence

from tidewire.backends.base import Deliver
from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.schema import SQL
from tidewire.backends.shared.relayed import pack_ephemeral, unpack_ephemeral
from tidewire.errors import StoreUnavailable
from tidewire.messages import EphemeralPublication
from tidewire.support.counters import count_limit

__all__ = ("RELAYED", "Relay")

logger = logging.getLogger("tidewire")

#: The notification channel.
RELAYED = "tidewire_relayed"
#: Bytes that are packed together, about, and characters of one part of it: PostgreSQL takes 7,999 with its head.
_PACKED, _PART = 5_400, 7_800
#: Publications that wait for the server, and those of one statement.
_WAITING, _TAKEN = 10_000, 1_000


class Relay:
    """The relay of one node. A payload is `<node> <number> <parts that come after it> <base64>`."""

    def __init__(self, pool: Pool, deliver: Deliver) -> None:
        self._node = secrets.token_hex(8)
        self._pool = pool
        self._deliver = deliver
        self._number = 0
        self._outgoing: list[EphemeralPublication] = []
        self._has_outgoing = asyncio.Event()
        #: The number of publications put, and of those sent or dropped; each waiter has the number that it waits for.
        self._accepted = self._settled = 0
        #: Those of the statement that runs, and those dropped meanwhile, which were put later: they settle with them.
        self._sending = self._dropped = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        #: By node: the number of a message in parts, and its parts so far.
        self._parts: dict[str, tuple[str, list[str]]] = {}

    def put(self, publications: Sequence[EphemeralPublication]) -> None:
        """Send publications soon."""
        self._outgoing += publications
        self._accepted += len(publications)
        over = len(self._outgoing) - _WAITING
        if over > 0:
            count_limit("relay")
            del self._outgoing[:over]
            self._dropped += over
            if not self._sending:
                self._settle()
        self._has_outgoing.set()

    def _settle(self) -> None:
        self._settled += self._sending + self._dropped
        self._sending = self._dropped = 0
        while self._waiting and self._waiting[0][0] <= self._settled:
            _, waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(None)

    async def sent(self) -> None:
        """Return when the publications that were put before have been sent, or cannot be."""
        if self._settled < self._accepted:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((self._accepted, waiter))
            await waiter

    async def relay(self) -> None:
        """Send the publications that wait, for ever; those that come during one statement go together in the next."""
        while True:
            await self._has_outgoing.wait()
            taken, self._outgoing = self._outgoing[:_TAKEN], self._outgoing[_TAKEN:]
            if not self._outgoing:
                self._has_outgoing.clear()
            self._sending = len(taken)
            try:
                await self._pool.fetch(SQL["relay"], RELAYED, self._payloads(taken))
            except StoreUnavailable as error:
                count_limit("relay")
                logger.info("publications that nobody keeps were not passed on: %s", error)
            finally:
                self._settle()

    def _payloads(self, publications: Sequence[EphemeralPublication]) -> list[str]:
        payloads: list[str] = []
        for packed in pack_ephemeral(self._node, publications, _PACKED):
            text = b64encode(packed).decode()
            self._number += 1
            parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
            payloads += [
                f"{self._node} {self._number:x} {len(parts) - place} {part}" for place, part in enumerate(parts, 1)
            ]
        return payloads

    def notified(self, connection: object, pid: int, channel: str, payload: str) -> None:
        """Take one notification."""
        node, number, left, part = (*payload.split(" ", 3), "", "", "", "")[:4]
        if node == self._node:
            return
        known, parts = self._parts.pop(node, ("", []))
        parts = [*parts, part] if known == number else [part]
        if left != "0":
            self._parts[node] = number, parts
            return
        try:
            publications = unpack_ephemeral(b64decode("".join(parts)), self._node)
        except ValueError:
            return
        if publications:
            self._deliver(publications)
