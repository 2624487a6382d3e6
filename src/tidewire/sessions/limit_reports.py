"""The counts of nodes of other machines by user and by network: each tells the others what comes near a limit."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.messages import Publication
from tidewire.rules.rates import rate_of_key

__all__ = ("LimitReports",)

#: Seconds between two reports, and for how long one counts: less than a lease, within which limits hold over nodes.
_SECONDS, _LEASE = 3.0, 10.0
#: A count below this part of a limit is not told, nor one behind so many that are more.
_LEAST, _MOST = 1 / 32, 500
_VERB = "counts"


class _Report(msgspec.Struct, frozen=True):
    node: str
    machine: bytes
    #: How many there are under each key, and how many messages were taken of each user since the last report.
    counted: dict[str, int]
    taken: dict[str, int]


class LimitReports:
    """Tells nodes of other machines the counts of this process, and adds theirs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._counts = node.registry.counts
        self._counts.taken = Counter()
        self._heard: dict[str, tuple[float, dict[str, int]]] = {}
        self._has_reported = False
        node.on_control(_VERB, self._heard_of)

    def start(self) -> None:
        """Begin to tell; the node's end ends it."""
        self._node.tasks.start((("reports", _SECONDS, self._tell),))

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
            limits, taken_here = self._node.limits, self._counts.taken
            self._counts.taken = None  # the takings of others are not told again
            for key, count in report.taken.items():
                self._counts.take(key, count, *(rate_of_key(key) or (limits.user_rate, limits.user_burst)))
            self._counts.taken = taken_here

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
