"""The same verbs for a test without an event loop: each call runs the loop until it has its answer."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from tidewire.testing.players import Player

__all__ = ("Blocking",)


class Blocking:
    """An object of an asynchronous test whose coroutine functions are called without `await`."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if inspect.iscoroutinefunction(found):

            def call(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                return self._plain(self._runner.run(found(*args, **kwargs)))

            return call
        if inspect.ismethod(found):

            def within(*args: Any, **kwargs: Any) -> Any:
                async def run() -> Any:
                    return found(*args, **kwargs)

                return self._plain(self._runner.run(run()))

            return within
        return self._plain(found)

    def _plain(self, value: Any) -> Any:
        """Return a client, a store or the like so that it can be used without `await`, too."""
        is_plain = isinstance(value, str | bytes | int | float | list | dict | tuple | None)
        if isinstance(value, Player) or (
            not is_plain and type(value).__module__.partition(".")[0] in ("tidewire", "httpx")
        ):
            return Blocking(value, self._runner) if _has_coroutines(value) else value
        return value

    def __repr__(self) -> str:
        return repr(self._target)


def _has_coroutines(value: Any) -> bool:
    return any(inspect.iscoroutinefunction(getattr(type(value), name, None)) for name in dir(type(value)))
