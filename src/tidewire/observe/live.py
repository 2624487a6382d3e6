"""The live figures of all nodes while a page shows them: each node publishes its own, not kept, for the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from tidewire.channels import LIVE
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import CutOff, LimitExceeded, StoreUnavailable
from tidewire.messages import EphemeralPublication, Format, Publication
from tidewire.sessions.listening import Publications
from tidewire.support.counters import count_limit

__all__ = ("Live",)

_LOOK = "look"
#: Seconds between two reports of a node, and seconds for which it continues after a page has asked.
_PAUSE, _LOOKED = 0.4, 2.5
#: Seconds in which the store must accept the notice that a page looks, and between two such notices: together, they are
#: the longest time for which a page does not show that the store is away.
_TAKEN, _ASK_PAUSE = 0.7, 0.3
#: A pause is at least this many times as long as the report before it took, so that reports take at most a fiftieth of
#: the node's time.
_REST = 50.0
#: Seconds for which a node may have been silent when this one notices that the store is away, and is still shown.
_SILENT = 2.0
#: Pages that may look at the figures through one node.
_MOST = 50


class Live:
    """Publishes the `figures` of a node while a page of any node looks at them.

    `reach` calls the store within some seconds, and notes a failure for the figures. `known` returns when the other
    nodes were asked for their figures, and what they said.
    """

    def __init__(
        self,
        node: Node,
        figures: Callable[[], dict[str, Any]],
        reach: Callable[[Awaitable[bool], float], Awaitable[bool | None]],
        known: Callable[[], tuple[float, list[dict[str, Any]]]],
    ) -> None:
        self._node = node
        self._figures = figures
        self._reach = reach
        self._known = known
        #: The newest figures that were heard of each other node, and when.
        self._heard: dict[str, tuple[float, bytes]] = {}
        self._is_away = False
        self._until = 0.0
        self._is_telling = False
        self._looking = 0
        self._asking: asyncio.Task[None] | None = None
        node.on_control(_LOOK, self._asked)

    async def look(self) -> AsyncGenerator[bytes, None]:
        """Yield the figures of this node at once, then of each as they come: JSON, with the `pause` until the next.

        While the store is away, the last figures of the others come after those of this one. It ends when the store,
        by which the other nodes are heard, is away. Raises LimitExceeded when too many pages look.
        """
        if self._looking >= _MOST:
            count_limit("looking")
            raise LimitExceeded(f"{_MOST} pages look at the figures by this worker already; close some")
        self._looking += 1
        self._asking = self._asking or self._node.tasks.spawn(self._ask())
        try:
            yield self._line()[1]
            for line in self._last_words():
                yield line
            async with Publications(self._node, LIVE, None, 0) as publications:
                async for publication in publications:
                    yield publication.data
                    for line in self._last_words(publication):
                        yield line
        except (CutOff, StoreUnavailable):
            pass  # the page was too slow for this, or no node is heard: it asks again
        finally:
            self._looking -= 1
            if not self._looking and self._asking is not None:
                self._asking.cancel()
                self._asking = None

    def _last_words(self, publication: Publication | None = None) -> list[bytes]:
        """Return the last figures of the other nodes behind those of this one, while no other node can be heard."""
        now = time.monotonic()
        if isinstance(publication, EphemeralPublication) and publication.sender != self._node.id:
            self._heard[publication.sender] = now, publication.data
            return []
        if not self._is_away:
            self._heard = {node: said for node, said in self._heard.items() if now - said[0] <= _SILENT}
            return []
        at, known = self._known()
        heard = [(when, line) for when, line in self._heard.values()]
        if max(heard, default=(0.0,))[0] >= at:
            return [line for _, line in heard]
        return [msgspec.json.encode({"pause": _PAUSE, **figures}) for figures in known]

    async def _ask(self) -> None:
        while self._node.is_open:
            if await self._reach(self._look(), _TAKEN) is None:
                self._until = time.monotonic() + _LOOKED
                await self._say()
            await asyncio.sleep(_ASK_PAUSE)

    async def _look(self) -> bool:
        await self._node.control(Control(verb=_LOOK))
        return True

    def _asked(self, publication: Publication) -> None:
        self._until = time.monotonic() + _LOOKED
        if not self._is_telling:
            self._is_telling = self._node.tasks.spawn(self._tell()) is not None

    async def _tell(self) -> None:
        try:
            while time.monotonic() < self._until and self._node.is_open:
                await asyncio.sleep(await self._say())
        finally:
            self._is_telling = False

    async def _say(self) -> float:
        """Publish the figures once, and return the pause until the next time."""
        pause, data = self._line()
        await self._node.publish(LIVE, data, Format.JSON, ephemeral=True, sender=self._node.id)
        return pause

    def _line(self) -> tuple[float, bytes]:
        began = time.perf_counter()
        figures = self._figures()
        self._is_away = figures["degraded"]
        pause = max(_PAUSE, (time.perf_counter() - began) * _REST)
        return pause, msgspec.json.encode({"pause": pause, **figures})
