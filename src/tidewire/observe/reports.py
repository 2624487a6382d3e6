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
        self._known: tuple[float, list[NodeReport]] = (0.0, [])
        #: The store has not answered the last call of a page; the node may not know yet that it is away.
        self._is_silent = False
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

        While the store is away, nodes cannot ask each other, and the last reports of the others are shown.
        """
        answers = None
        # if nothing but a publish failed, this question finds out whether publishing still fails
        if self._node.tasks.failing <= {"publish"}:
            answers = await self.reach(self._survey.ask("report", seconds=_SECONDS, complete=False), 2 * _SECONDS)
        now = time.monotonic()
        if answers is not None:
            others = (b"".join(parts) for node, parts in sorted(answers.items()) if node != self._node.id)
            self._known = now, [_decode(answer) for answer in others if answer]
        elif now - self._known[0] > _REMEMBERED_SECONDS:
            self._known = now, []
        return [self.own(), *self._known[1]]

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
