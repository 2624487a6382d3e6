"""The `realtime` fixture: runs an application for one test, in the test's own event loop or in one of its own."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tidewire.errors import ConfigurationError
from tidewire.testing.blocking import Blocking
from tidewire.testing.world import World

__all__ = ("Realtime", "Run")


class Realtime:
    """Makes runs of applications: `async with realtime(app) as rt`, or `with realtime(app) as rt` in a plain test."""

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed

    def __call__(self, app: Any, *, workers: int = 1, seed: int | None = None) -> Run:
        """Run an application, or the one that a function without arguments makes.

        Several workers of one application share the variables of its modules; a function makes an application for each.
        A `seed` decides when publications reach the workers, and which worker a client connects to.
        """
        if not isinstance(workers, int) or workers < 1:
            raise ConfigurationError(f"workers={workers!r} is no number of workers; write 1 or more")
        return Run(app, workers, self._seed if seed is None else seed)


class Run:
    """One run of an application."""

    def __init__(self, app: Any, workers: int, seed: int | None) -> None:
        self._app = app
        self._workers = workers
        self._seed = seed
        self._world: World | None = None
        self._runner: asyncio.Runner | None = None
        self._chance: object = None

    async def __aenter__(self) -> World:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                "tidewire runs on asyncio, and this test on trio; give your tests a fixture anyio_backend that returns "
                '"asyncio"'
            ) from None
        if not callable(self._app):
            raise ConfigurationError(f"realtime({self._app!r}) is no application; give the object itself, not its name")
        factory = self._app if _is_factory(self._app) else None
        if self._seed is not None:
            self._chance = random.getstate()
            random.seed(self._seed)
        world = World(self._app, workers=self._workers, seed=self._seed, factory=factory)
        await world.start()
        self._world = world
        return world

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        world, self._world = self._world, None
        assert world is not None
        try:
            if exc is None:
                await world.settle_briefly()
            await world.aclose()
        finally:
            if self._chance is not None:
                random.setstate(self._chance)  # type: ignore[arg-type]
        if exc is None:
            world.raise_errors()
        elif world.errors:
            exc.add_note(f"a handler raised {world.errors[0]!r}")

    def __enter__(self) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigurationError("this test has an event loop; write `async with realtime(app) as rt:`")
        self._runner = asyncio.Runner()
        try:
            world = self._runner.run(self.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return Blocking(world, self._runner)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._runner is not None
        try:
            self._runner.run(self.__aexit__(exc_type, exc, traceback))
        finally:
            self._runner.close()


def _is_factory(app: Any) -> bool:
    """Return whether it is a function that makes an application, and no application itself."""
    target: Callable[..., Any] = app
    if not inspect.isfunction(target) or inspect.iscoroutinefunction(target):
        return False
    return not inspect.signature(target).parameters
