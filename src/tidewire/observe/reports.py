"""The reports of all nodes: each node answers for itself, and the one that is asked answers for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.observe.node_report import NodeReport, Source, report_of
from tidewire.observe.survey import Survey
from tidewire.support.meter import Meter
from tidewire.support.refusals import Refusals

__all__ = ("Reports",)

T = TypeVar("T")

#: Seconds in which the store must take a question, and in which a node must answer: a node that does not is left out,
#: so that the others can be seen meanwhile.
_SECONDS = 0.8
#: Seconds between two questions to a store that is away.
_PAUSE = 0.2
#: Seconds for which the last reports of other nodes are shown while the store, by which they answer, is away.
_REMEMBERED_SECONDS = 600.0
_decode = msgspec.json.Decoder(NodeReport).decode


class Reports:
    """Answers for its node, and asks all. `meter` is that of the process, if durations are measured."""

    def __init__(self, node: Node, survey: Survey, *, version: str, meter: Meter | None) -> None:
        self.meter = meter
        self._node = node
        self._survey = survey
        self._version = version
        self._started = time.monotonic()
        self._sources: list[Source] = []
        #: The nodes that answered the last question, and those that had answered the one before alone: where the store
        #: is away with the next question, it was the store that said nothing.
        self._known: tuple[float, list[NodeReport]] = (0.0, [])
        self._missed: list[NodeReport] = []
        #: The store has not answered the last call of a page; the node may not know yet that it is away.
        self._is_silent = False
        self._is_seeking = False
        survey.on("report", self._asked)

    def add_source(self, source: Source) -> None:
        """Report the figures of a layer above, too."""
        self._sources.append(source)

    def own(self) -> NodeReport:
        """Return the figures of this node."""
        refusals = Refusals.of(asyncio.get_running_loop())
        own = report_of(self._node, self.meter, refusals, self._sources, version=self._version, started=self._started)
        return msgspec.structs.replace(own, degraded=True) if self._is_silent else own

    async def all(self) -> list[NodeReport]:
        """Return the figures of every node that answers, this one first.

        While the store is away, nodes cannot ask each other: the last reports of the others are shown, at once.
        """
        if not self._is_away:
            await self._ask()
        if self._is_away and not self._is_seeking:
            self._is_seeking = self._node.tasks.spawn(self._seek()) is not None
        return [self.own(), *self.others[1]]

    @property
    def others(self) -> tuple[float, list[NodeReport]]:
        """When the other nodes were asked last, and what they answered."""
        at, found = self._known
        return at, found if time.monotonic() - at <= _REMEMBERED_SECONDS else []

    @property
    def _is_away(self) -> bool:
        return self._is_silent or self._node.tasks.degraded

    async def _ask(self) -> None:
        answers = await self.reach(self._survey.ask("report", seconds=_SECONDS, complete=False), 2 * _SECONDS)
        at, before = self._known
        if answers is None:
            self._known, self._missed = (at, [*before, *self._missed]), []
            return
        others = (b"".join(parts) for node, parts in sorted(answers.items()) if node != self._node.id)
        self._known = time.monotonic(), [_decode(answer) for answer in others if answer]
        answered = {report.node for report in self._known[1]}
        self._missed = [report for report in before if report.node not in answered]

    async def _seek(self) -> None:
        """Ask the store until it answers, so that nobody who looks has to wait for it."""
        try:
            while self._is_away and self._node.is_open:
                await asyncio.sleep(_PAUSE)
                await self._ask()
        finally:
            self._is_seeking = False

    async def reach(self, work: Awaitable[T], seconds: float) -> T | None:
        """Return the answer of the store, or None if it is late: until it answers, `own` says that it is away."""
        try:
            async with asyncio.timeout(seconds):
                found = await work
        except (StoreUnavailable, PublishError, TimeoutError):
            self._is_silent = True
            return None
        self._is_silent = False
        return found

    def _asked(self, _: bytes) -> list[bytes]:
        self._is_silent = False  # the question has come over the store
        return [msgspec.json.encode(self.own())]
