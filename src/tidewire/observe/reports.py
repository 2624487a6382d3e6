"""The reports of all nodes: each answers for itself, and one that is asked answers for all."""

from __future__ import annotations

import asyncio
import time

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.observe.node_report import NodeReport, Source, report_of
from tidewire.observe.survey import Survey
from tidewire.support.meter import Meter
from tidewire.support.refusals import Refusals

__all__ = ("Reports",)

#: Seconds in which a node must answer: one that does not is left out, so that the others can be seen meanwhile.
_SECONDS = 0.8
#: Seconds for which other nodes are shown as they were last while the store, by which they answer, is away.
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
        self._known: tuple[float, list[NodeReport]] = (0.0, [])
        survey.on("report", lambda _: [msgspec.json.encode(self.own())])

    def add_source(self, source: Source) -> None:
        """Report the figures of a layer above, too."""
        self._sources.append(source)

    def own(self) -> NodeReport:
        """Return the figures of this node."""
        refusals = Refusals.of(asyncio.get_running_loop())
        return report_of(self._node, self.meter, refusals, self._sources, version=self._version, started=self._started)

    async def all(self) -> list[NodeReport]:
        """Return the figures of every node that answers, this one first.

        While the store is away, nodes cannot ask each other: the others are shown as they were last.
        """
        failing = self._node.tasks.failing
        is_asked = failing <= {"publish"}  # when that was all that failed, asking finds out whether it still does
        others = await self._ask() if is_asked else None
        now = time.monotonic()
        own = self.own()
        if others is not None:
            self._known = now, others
        elif now - self._known[0] > _REMEMBERED_SECONDS:
            self._known = now, []
        if others is None and not own.degraded:
            own = msgspec.structs.replace(own, degraded=True)  # the store has not taken the question
        return [own, *self._known[1]]

    async def _ask(self) -> list[NodeReport] | None:
        try:
            async with asyncio.timeout(2 * _SECONDS):
                answers = await self._survey.ask("report", seconds=_SECONDS, complete=False)
        except (StoreUnavailable, PublishError, TimeoutError):
            return None
        others = (b"".join(parts) for node, parts in sorted(answers.items()) if node != self._node.id)
        return [_decode(answer) for answer in others if answer]
