"""What the fault tests of every store share: a publisher that remembers, and the check after every fault."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tidewire.channel_options import ChannelOptions
from tidewire.errors import PublishError, PublishUnconfirmed
from tidewire.messages import Format, Position
from tidewire.testing import wait_until

__all__ = ("RULES", "Ledger", "check", "check_outage_told", "open_files", "received")

#: Everything is shown, so that history is no reason for a gap.
RULES = {"*": ChannelOptions(history_size=1_000_000)}


def open_files() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


class Publishes(Protocol):
    """Where a ledger publishes: a node, or a client of a server."""

    @property
    def id(self) -> str: ...

    async def publish(self, channel: str, data: bytes, format: Format) -> Position: ...


class Shows(Protocol):
    """Who was shown publications and gaps, in the words of `core.support.OffsetProtocol`."""

    @property
    def shown(self) -> Sequence[str]: ...


class Ledger:
    """Publishes all the time, and remembers what was acknowledged, what failed, and how long a failure took."""

    def __init__(self, node: Publishes, channel: str = "a") -> None:
        self._node = node
        self._channel = channel
        self._next = 0
        #: The texts of publishes that have no answer yet.
        self.waiting: set[str] = set()
        self.kept: dict[tuple[str, int], str] = {}
        self.failures: list[tuple[PublishError, float]] = []

    async def publish(self, count: int = 1) -> None:
        """Publish one after the other."""
        for _ in range(count):
            self._next += 1
            text = f"{self._node.id}/{self._next}"
            start = time.monotonic()
            self.waiting.add(text)
            try:
                position = await self._node.publish(self._channel, text.encode(), Format.TEXT)
            except PublishError as error:
                self.failures.append((error, time.monotonic() - start))
            else:
                assert (position.epoch, position.offset) not in self.kept, f"{position} was given twice"
                self.kept[position.epoch, position.offset] = text
            finally:
                self.waiting.remove(text)

    @contextlib.asynccontextmanager
    async def publishing(self, tasks: int = 5, pause: float = 0.002) -> AsyncIterator[None]:
        """Publish from several tasks for as long as the block lasts."""
        is_over = asyncio.Event()

        async def go_on() -> None:
            while not is_over.is_set():
                await self.publish()
                await asyncio.sleep(pause)

        running = [asyncio.create_task(go_on()) for _ in range(tasks)]
        try:
            yield
        finally:
            is_over.set()
            await asyncio.gather(*running)

    async def succeeds(self, count: int = 1, within: float = 10.0) -> None:
        """Wait until so many further publishes were acknowledged."""
        wanted = len(self.kept) + count

        async def is_enough() -> bool:
            await self.publish()
            return len(self.kept) >= wanted

        await wait_until(is_enough, within, "publishing works again")

    async def fails(self, within: float = 10.0) -> None:
        """Wait until a publish fails at once."""

        async def is_quick() -> bool:
            count = len(self.failures)
            await self.publish()
            return len(self.failures) > count and self.failures[-1][1] < 0.1

        await wait_until(is_quick, within, "publishing fails at once")

    @property
    def last(self) -> Position:
        """The position that was acknowledged last."""
        epoch, offset = list(self.kept)[-1]
        return Position(offset, epoch)

    @property
    def were_sure(self) -> bool:
        """No failed publish may have been kept."""
        return not any(isinstance(error, PublishUnconfirmed) for error, _ in self.failures)


def check_outage_told(records: Sequence[logging.LogRecord], shown: str, nodes: int) -> None:
    """Each node has told of an outage by one line at the beginning, and one at the end."""
    told = [record.message for record in records if record.message.startswith(f"{shown} is ")]
    assert sum(" is away (" in text for text in told) == sum(" is back " in text for text in told) == nodes, told


async def received(client: Shows, ledger: Ledger, channel: str = "a", within: float = 15.0) -> None:
    """Wait until a client has the newest of what was acknowledged; one that is told of a gap gets what comes later."""

    async def has_newest() -> bool:
        if f"i {channel}" in client.shown:
            await ledger.publish()
        last = ledger.last
        text = f"p {channel} {last.offset} {last.epoch} "
        await asyncio.sleep(0.01)
        return any(line.startswith(text) for line in client.shown)

    await wait_until(has_newest, within, "the newest publication arrives")


def check(client: Shows, *ledgers: Ledger, channel: str = "a", told: bool = False, has_holes: bool = False) -> None:
    """What was acknowledged was received exactly once, in order, or the subscriber was told that some is missing.

    `has_holes`: the store counts the publications of all channels in one row.
    """
    seen: dict[tuple[str, int], str] = {}
    texts: set[str] = set()
    latest: dict[str, int] = {}
    notices = 0
    for line in client.shown:
        word, _, rest = line.partition(f" {channel}")
        if word == "i":
            notices += 1
            latest.clear()
        elif word == "p":
            offset, epoch, data = rest.strip().split(" ", 2)
            place = (epoch, int(offset))
            assert place not in seen, f"{place} came twice"
            before = latest.get(epoch, int(offset) - 1)
            assert before < int(offset) if has_holes else before == int(offset) - 1, f"{place} came after {latest}"
            assert data not in texts, f"{data} came twice"
            texts.add(data)
            latest[epoch] = int(offset)
            seen[place] = data
    kept = {place: text for ledger in ledgers for place, text in ledger.kept.items()}
    wrong = {place: (text, seen[place]) for place, text in kept.items() if place in seen and seen[place] != text}
    assert not wrong, wrong
    missing = kept.keys() - seen.keys()
    assert notices or not missing, f"missing, and nobody was told: {sorted(missing)}"
    assert bool(notices) == told, f"the subscriber was told {notices} times"
