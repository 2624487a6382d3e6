"""The hub of an application that a command names as `module:attribute`."""

from __future__ import annotations

import os
import sys
from typing import Any

from fastapi import FastAPI
from uvicorn.importer import ImportFromStringError, import_from_string

from tidewire.errors import ConfigurationError
from tidewire.hub import Hub
from tidewire.server.load_faults import mistakes_in_one_line

__all__ = ("load_application", "load_hub")


def load_hub(path: str) -> Hub:
    """Return the hub that `path` names, or that of the application that it names; raises ConfigurationError."""
    return load_application(path)[0]


def load_application(path: str) -> tuple[Hub, FastAPI | None]:
    """Return a hub, and its application if `path` names one; raises ConfigurationError.

    The hub is the one whose lifespan the application has, else the only one of its module. A function is called.
    """
    sys.path.insert(0, os.getcwd())
    with mistakes_in_one_line(path):
        found = _named(path)
        if not isinstance(found, FastAPI | Hub) and callable(found):
            found = found()
    if isinstance(found, Hub):
        return found, None
    app = found if isinstance(found, FastAPI) else None
    owner = getattr(getattr(getattr(app, "router", None), "lifespan_context", None), "__self__", None)
    if isinstance(owner, Hub):
        return owner, app
    module = sys.modules[path.partition(":")[0]]
    hubs = {id(value): value for value in vars(module).values() if isinstance(value, Hub)}
    if len(hubs) == 1:
        return next(iter(hubs.values())), app
    raise ConfigurationError(
        f"{path!r} has {len(hubs) or 'no'} hubs that a command can find; name the hub itself, as main:hub"
    )


def _named(path: str) -> Any:
    try:
        return import_from_string(path)
    except ImportFromStringError as error:
        raise ConfigurationError(f"{path!r} cannot be loaded: {error}") from error
