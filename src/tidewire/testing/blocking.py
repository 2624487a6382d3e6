"""The same verbs for a test without an event loop: each call runs the loop until it has its answer."""

from __future__ import annotations

import asyncio
import inspect
from types import TracebackType
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
                try:
                    return self._plain(self._runner.run(found(*args, **kwargs)))
                except Exception as error:
                    raise error.with_traceback(_without_loop(error.__traceback__)) from error.__cause__

            return call
        if inspect.ismethod(found):

            def within(*args: Any, **kwargs: Any) -> Any:
                async def run() -> Any:
                    return found(*args, **kwargs)

                return self._plain(self._runner.run(run()))

            return within
        return self._plain(found)

    def _plain(self, value: Any) -> Any:
        """Return a client, a store or the like in a form that works without `await`."""
        is_plain = isinstance(value, str | bytes | int | float | list | dict | tuple | None)
        if isinstance(value, Player) or (
            not is_plain and type(value).__module__.partition(".")[0] in ("tidewire", "httpx")
        ):
            return Blocking(value, self._runner) if _has_coroutines(value) else value
        return value

    def __repr__(self) -> str:
        return repr(self._target)


def _without_loop(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without its first frames, those of the call and of asyncio."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith((__name__, "asyncio.")):
        trace = trace.tb_next
    return trace


def _has_coroutines(value: Any) -> bool:
    return any(inspect.iscoroutinefunction(getattr(type(value), name, None)) for name in dir(type(value)))
