"""The lifespan of an application, in each form in which people write it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

__all__ = ("Lifespan",)


class Lifespan:
    """Opens something for as long as an application runs: `lifespan=it.lifespan`, `it.lifespan()`, or `async with`."""

    __slots__ = ("_opens", "_see")

    def __init__(
        self, opens: AbstractAsyncContextManager[object], see: Callable[[object], None] = lambda app: None
    ) -> None:
        self._opens = opens
        #: Is told of the application.
        self._see = see

    def __call__(self, app: object) -> Lifespan:
        self._see(app)
        return self

    async def __aenter__(self) -> None:
        await self._opens.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opens.__aexit__(exc_type, exc, traceback)
