"""Objects of which each event loop has one."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

__all__ = ("PerLoop",)


class PerLoop:
    """A class with one instance for each event loop, made when it is first asked for."""

    __slots__ = ("_loop",)

    _known: ClassVar[dict[asyncio.AbstractEventLoop, Any]]

    def __init_subclass__(cls) -> None:
        cls._known = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Return the instance of an event loop; those of closed loops are forgotten."""
        found: Self | None = cls._known.get(loop)
        if found is None:
            for ended in [other for other in cls._known if other.is_closed()]:
                del cls._known[ended]
            found = cls._known[loop] = cls(loop)
        return found
