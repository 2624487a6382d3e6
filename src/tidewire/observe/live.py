"""The figures of all nodes while somebody looks: each tells its own on a channel of the nodes; they are not kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from tidewire.channels import CONTROL, LIVE
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import CutOff, LimitExceeded
from tidewire.messages import Format, Publication
from tidewire.sessions.listening import Publications
from tidewire.support.counters import count_limit

__all__ = ("Live",)

_LOOK = "look"
#: Seconds between two reports of a node, and for which it goes on after somebody has looked.
_PAUSE, _LOOKED = 0.5, 2.5
#: A pause is so many times as long as the report before it took, which so takes a fiftieth of the node at most.
_REST = 50.0
#: Pages that look at the figures by one node.
_MOST = 50


class Live:
    """Tells the `figures` of a node while a page of any node looks, and nothing while none does."""

    def __init__(self, node: Node, figures: Callable[[], dict[str, Any]]) -> None:
        self._node = node
        self._figures = figures
        self._until = 0.0
        self._is_telling = False
        self._looking = 0
        node.on_control(_LOOK, self._asked)

    async def look(self) -> AsyncGenerator[bytes, None]:
        """Yield the figures of each node as they come, each a JSON object with the `pause` until the next.

        Raises LimitExceeded where too many look already, StoreUnavailable.
        """
        if self._looking >= _MOST:
            count_limit("looking")
            raise LimitExceeded(f"{_MOST} pages look at the figures by this worker already; close some")
        self._looking += 1
        asking = self._node.tasks.spawn(self._ask())
        try:
            async with Publications(self._node, LIVE, None, 0) as publications:
                async for publication in publications:
                    yield publication.data
        except CutOff:
            pass  # the page was too slow for this: it asks again
        finally:
            self._looking -= 1
            if asking is not None:
                asking.cancel()

    async def _ask(self) -> None:
        look = msgspec.json.encode(Control(verb=_LOOK))
        while self._node.is_open:
            await self._node.publish(CONTROL, b"", meta=look, ephemeral=True)
            await asyncio.sleep(_LOOKED / 2.5)

    def _asked(self, publication: Publication) -> None:
        self._until = time.monotonic() + _LOOKED
        if not self._is_telling:
            self._is_telling = self._node.tasks.spawn(self._tell()) is not None

    async def _tell(self) -> None:
        try:
            while time.monotonic() < self._until and self._node.is_open:
                began = time.perf_counter()
                figures = self._figures()
                pause = max(_PAUSE, (time.perf_counter() - began) * _REST)
                data = msgspec.json.encode({"pause": pause, **figures})
                await self._node.publish(LIVE, data, Format.JSON, ephemeral=True, sender=self._node.id)
                await asyncio.sleep(pause)
        finally:
            self._is_telling = False
