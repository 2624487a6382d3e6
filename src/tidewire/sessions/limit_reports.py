"""The counts of nodes of other machines by user and by network: each tells the others the counts near a limit."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping

import msgspec

from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.messages import Publication
from tidewire.rules.rate_limits import rate_of_key

__all__ = ("Charges", "LimitReports")

#: Seconds between two reports, and for how long one counts: less than a lease, within which limits hold over nodes.
_SECONDS, _LEASE = 3.0, 10.0
#: Parts in which the messages that a report tells are taken here, until the next one comes: taken at once, they would
#: refuse somebody who sends less than the rate on all machines together.
_PARTS = 12
#: A count below this part of a limit is not told, nor one behind so many that are more.
_LEAST, _MOST = 1 / 32, 500
_VERB = "counts"


class _Report(msgspec.Struct, frozen=True):
    node: str
    machine: bytes
    #: How many there are under each key, and how many messages were taken of each user since the last report.
    counted: dict[str, int]
    taken: dict[str, int]


class Charges:
    """The messages that other machines have told, in parts: each of the next ones has its share of every report."""

    def __init__(self, parts: int) -> None:
        self._parts: deque[Counter[str]] = deque()
        self._number = parts

    def add(self, taken: Mapping[str, int]) -> None:
        """Divide the counts under each key."""
        self._parts.extend(Counter[str]() for _ in range(self._number - len(self._parts)))
        for key, count in taken.items():
            share, more = divmod(count, self._number)
            for number, part in enumerate(self._parts):
                if share or number < more:
                    part[key] += share + (number < more)

    def next(self) -> Counter[str]:
        """Return the next part."""
        return self._parts.popleft() if self._parts else Counter()


class LimitReports:
    """Tells nodes of other machines the counts of this process, and adds theirs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._counts = node.registry.counts
        self._counts.taken = Counter()
        self._heard: dict[str, tuple[float, dict[str, int]]] = {}
        self._has_reported = False
        self._charges = Charges(_PARTS)
        node.on_control(_VERB, self._heard_of)

    def start(self) -> None:
        """Begin to tell; the node's end ends it."""
        self._node.tasks.start((("reports", _SECONDS, self._tell), ("charges", _SECONDS / _PARTS, self._charge)))

    async def _tell(self) -> None:
        self._forget_silent()
        limits = self._node.limits
        counted = _largest(self._counts.own, limits.connections_per_address)
        taken = _largest(self._counts.taken or Counter(), limits.user_rate * _SECONDS)
        self._counts.taken = Counter()
        if counted or taken or self._has_reported:
            self._has_reported = bool(counted)
            report = _Report(self._node.id, self._counts.name, counted, taken)
            await self._node.control(Control(verb=_VERB), msgspec.json.encode(report))

    def _heard_of(self, publication: Publication) -> None:
        report = msgspec.json.decode(publication.data, type=_Report)
        if report.node == self._node.id or (report.machine and report.machine == self._counts.name):
            return
        self._heard[report.node] = asyncio.get_running_loop().time() + _LEASE, report.counted
        self._forget_silent()
        if report.taken and self._counts.is_first:
            self._charges.add(report.taken)

    async def _charge(self) -> None:
        for key, count in self._charges.next().items():
            self._counts.charge(key, count, rate_of_key(key) or self._node.limits.user_rate)

    def _forget_silent(self) -> None:
        now = asyncio.get_running_loop().time()
        self._heard = {node: heard for node, heard in self._heard.items() if heard[0] > now}
        elsewhere: Counter[str] = Counter()
        for _, counted in self._heard.values():
            elsewhere.update(counted)
        self._counts.elsewhere = elsewhere


def _largest(counter: Counter[str], limit: float) -> dict[str, int]:
    near = Counter({key: count for key, count in counter.items() if count >= limit * _LEAST or rate_of_key(key)})
    return dict(near.most_common(_MOST))
