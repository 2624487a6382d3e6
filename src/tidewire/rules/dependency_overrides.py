"""The functions that a test puts in the place of an application's dependencies: `app.dependency_overrides`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import ReferenceType, ref

__all__ = ("Overrides",)


class Overrides:
    """The `dependency_overrides` of the application that a hub serves: the one that was seen last.

    An application is seen when it opens the hub by `lifespan=hub.lifespan`, and when a client connects through it.
    """

    __slots__ = ("_app",)

    def __init__(self) -> None:
        self._app: ReferenceType[Any] | None = None

    def see(self, app: Any) -> None:
        """Take the overrides of an application from now on."""
        if hasattr(app, "dependency_overrides"):
            self._app = ref(app)

    def find(self, dependency: Callable[..., Any]) -> Callable[..., Any] | None:
        """Return the override of a dependency, if there is one."""
        app = None if self._app is None else self._app()
        overrides: Mapping[Any, Callable[..., Any]] = getattr(app, "dependency_overrides", {})
        return overrides.get(dependency) if overrides else None
