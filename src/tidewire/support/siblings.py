"""The processes that serve the same application beside this one."""

from __future__ import annotations

import asyncio

from tidewire.support.per_loop import PerLoop

__all__ = ("Siblings",)


class Siblings(PerLoop):
    """How many workers share the port of the server that runs on this event loop; 1 where that is not known."""

    __slots__ = ("workers",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.workers = 1
