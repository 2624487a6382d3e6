"""The connection for channels: before it first touches one, it makes sure of the generation that holds there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from tidewire.backends.redis.address import Kind
from tidewire.backends.redis.connection import Dial, RequestLine
from tidewire.backends.redis.driver import Command
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.opening import Server, load, new_epoch, read_server
from tidewire.backends.redis.scripts import script
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable

__all__ = ("SCRIPTS", "GuardedLine")

GENERATION = script("generation")
SCRIPTS = {name: script(name, "channel") for name in ("publish", "history", "positions", "remove")}


class GuardedLine(RequestLine):
    """Restarting from an older dump, or a failover, would hand out used offsets again in the same epoch.

    So each connection first says to the server "this is you": where that is not who kept the last publication, a new
    generation begins, and with it new epochs (scripts/generation.lua). In a cluster each slot has its own.
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
        super().__init__(shown, dial, outage, patience, self._begin, opened=opened, lost=lost)
        self._on_moved = moved
        self._keys = keys
        self._kind = kind
        self._guarded: set[int] = set()
        #: What the server says of itself, as of the last connection.
        self.server: Server | None = None

    async def _begin(self, line: RequestLine) -> None:
        await load(line, [GENERATION, *SCRIPTS.values()])
        self.server = await read_server(line)
        self._guarded.clear()
        if self._kind is not Kind.CLUSTER:
            (reply,) = await line.ask_first(self._guard(0))
            if isinstance(reply, ResponseError):
                raise StoreUnavailable(f"{self._shown} answers {str(reply)!r}")
            self._guarded.add(0)

    def judge(self, error: ResponseError) -> None:
        if isinstance(error, MovedError | AskError | TryAgainError | ClusterDownError):
            self._guarded.clear()  # who gets a slot back was perhaps a replica meanwhile, and has lost something
            self._on_moved()  # one slot is elsewhere, or on its way; the others are still here
        else:
            super().judge(error)

    def guards(self, channels: Iterable[str]) -> list[Command]:
        """Return the commands that come before those that touch these channels, and take them for done."""
        if self._kind is not Kind.CLUSTER:
            return []
        slots = {self._keys.slot(channel) for channel in channels} - self._guarded
        self._guarded |= slots
        return [self._guard(slot) for slot in slots]

    def _guard(self, slot: int) -> Command:
        # what Sentinels or a cluster put in a server's place has its name, but not its disk
        is_durable = self._kind is Kind.SINGLE and self.server is not None and self.server.is_durable
        return ["EVALSHA", GENERATION.sha, 1, self._keys.generation(slot), new_epoch(), "1" if is_durable else "0"]
