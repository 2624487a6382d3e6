"""Finds the connection of an application's own transaction in what SQLAlchemy and SQLModel give the application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from tidewire.errors import ConfigurationError
from tidewire.support.thread_calls import IS_FROM_THREAD

__all__ = ("call", "library", "opened")

#: Classes of SQLAlchemy: those that have a session for each thread or task, sessions, and connections.
_SCOPED = frozenset({"scoped_session", "async_scoped_session"})
_SESSIONS = frozenset({"Session", "AsyncSession"})
_CONNECTIONS = frozenset({"Connection", "AsyncConnection"})


def library(connection: object, *names: str) -> str:
    """Return which of some libraries made a connection, or a class that its class stands on; "" for none."""
    packages = {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}
    return next((name for name in names if name in packages), "")


async def opened(connection: Any, *dialects: str) -> Any:
    """Return the connection in SQLAlchemy's transaction; raises ConfigurationError where there is none.

    A subclass may execute otherwise than SQLAlchemy's own sessions do; their connections execute alike.
    """
    kinds = {kind.__name__ for kind in type(connection).__mro__}
    if kinds & _SCOPED:
        # of a thread alone: what a thread calls may have a session of its task throughout
        if IS_FROM_THREAD.get() and "scoped_session" in kinds:
            raise ConfigurationError(
                f"connection={type(connection).__qualname__} has another session on the event loop than in the thread "
                "that calls; pass that thread's own, as hub.from_thread(hub.publish, …, connection=Session())"
            )
        connection = connection()  # the session of this thread or task: another thread would have another one
        kinds = {kind.__name__ for kind in type(connection).__mro__}
    if kinds & _SESSIONS:
        connection = await call(connection.connection)
    elif not kinds & _CONNECTIONS:
        name = type(connection).__qualname__
        raise ConfigurationError(f"connection={name} has no transaction; give a session or a connection of it")
    if connection.dialect.name not in dialects:
        raise ConfigurationError(
            f"connection= is one of {connection.dialect.name}, and this hub's store is {dialects[0]}; a hub publishes "
            "in the transactions of its own kind of database alone"
        )
    return connection


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that may wait: a coroutine function, or one that blocks, in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.to_thread(function, *arguments)
    return await result if inspect.isawaitable(result) else result
