"""Requests that concern channels: the first one for a slot makes sure which generation holds there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from tidewire.backends.redis.address import Kind
from tidewire.backends.redis.connection import Dial
from tidewire.backends.redis.driver import Command, Reply
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.opening import Server, check_single, load, new_epoch, read_server
from tidewire.backends.redis.requests import Requests
from tidewire.backends.redis.scripts import script
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable

__all__ = ("SCRIPTS", "ChannelRequests")

GENERATION = script("generation")
SCRIPTS = {name: script(name, "channel") for name in ("publish", "history", "positions", "remove", "bound")}


class ChannelRequests:
    """Asks one server about its channels.

    A server that restarts from an older dump, or takes over after a failover, would give used offsets again in the same
    epoch. So each connection first compares the server with the one that kept the last publication. Where it is another
    one, a new generation begins, and with it new epochs (scripts/generation.lua). In a cluster each slot has its own.
    """

    def __init__(
        self,
        shown: str,
        dial: Dial,
        outage: Outage,
        patience: float,
        keys: Keys,
        kind: Kind,
        *,
        opened: Callable[[], None],
        lost: Callable[[str], None],
        moved: Callable[[], None],
    ) -> None:
        self.requests = Requests(
            shown, dial, outage, patience, self._begin, opened=opened, lost=lost, is_passing=self._is_passing
        )
        self._on_moved = moved
        self._keys = keys
        self._kind = kind
        self._guarded: set[int] = set()
        #: The server's own description, as of the last connection.
        self.server: Server | None = None

    @property
    def is_open(self) -> bool:
        """The connection is there."""
        return self.requests.connection.is_open

    def ask(self, channels: Iterable[str], *commands: Command) -> asyncio.Future[list[Reply]]:
        """Send commands that touch these channels (requests.Requests.ask)."""
        slots = self._unguarded(channels)
        asked = self.requests.ask(*commands, before=[self._guard(slot) for slot in slots])
        self._guarded |= slots
        return asked

    async def run(self, channels: Iterable[str], command: Command) -> Reply:
        """Return the reply to a command that touches these channels; raises StoreUnavailable, also for an error."""
        return self.requests.result(await self.ask(channels, command))

    async def _begin(self, requests: Requests) -> None:
        await load(requests, [GENERATION, *SCRIPTS.values()])
        self.server = await read_server(requests)
        self._guarded.clear()
        if self._kind is not Kind.CLUSTER:
            await check_single(requests)
            (reply,) = await requests.ask_first(self._guard(0))
            if isinstance(reply, ResponseError):
                raise StoreUnavailable(f"{requests.connection.shown} answers {str(reply)!r}")
            self._guarded.add(0)

    def _is_passing(self, error: ResponseError) -> bool:
        """Return whether an error concerns one slot, which is elsewhere or on its way; the others are still here."""
        if not isinstance(error, MovedError | AskError | TryAgainError | ClusterDownError):
            return False
        self._guarded.clear()  # a server that gets a slot back was perhaps a replica meanwhile, and has lost something
        self._on_moved()
        return True

    def _unguarded(self, channels: Iterable[str]) -> set[int]:
        """Return the slots of these channels whose generation this connection has not verified."""
        if self._kind is not Kind.CLUSTER:
            return set()
        return {self._keys.slot(channel) for channel in channels} - self._guarded

    def _guard(self, slot: int) -> Command:
        # a server that Sentinels or a cluster put in another's place has its name, but not its disk
        is_durable = self._kind is Kind.SINGLE and self.server is not None and self.server.is_durable
        return ["EVALSHA", GENERATION.sha, 1, self._keys.generation(slot), new_epoch(), "1" if is_durable else "0"]
