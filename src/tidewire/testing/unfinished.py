"""Where the handlers of an application are that still work: the line of code at which each waits."""

from __future__ import annotations

import asyncio
import linecache
import sys
import sysconfig
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tidewire.errors import TidewireError
from tidewire.sessions.application import HubConnection

__all__ = ("unfinished",)

#: Folders of Python and of installed packages: a handler's own code is elsewhere.
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def unfinished(working: Collection[str]) -> list[str]:
    """Describe each handler that works: those of the connections with these ids, those for calls, and those in threads.

    A task of the application's own is not a handler, and the task that asks is the test.
    """
    found = []
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        frames = list(_frames(task.get_coro()))
        if not frames or _is_own(frames[0]) or frames[0].f_code.co_name == "_live":
            continue
        ids = {_id(value) for frame in frames for value in frame.f_locals.values() if isinstance(value, HubConnection)}
        own = [frame for frame in frames if _is_own(frame)]
        if own and (not ids or ids & set(working)):
            found.append(_described(own))
    for thread in threading.enumerate():
        frame = sys._current_frames().get(thread.ident or 0)
        own = [one for one in _callers(frame) if _is_own(one)]
        if own and thread is not threading.current_thread() and thread.name.startswith(("AnyIO", "asyncio")):
            found.append(_described(own[::-1]))
    return sorted(found)


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a task that waits, the outermost first."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _id(connection: HubConnection) -> str:
    try:
        return connection.id
    except TidewireError:  # it is not accepted yet
        return ""


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_own(frame: FrameType) -> bool:
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package != "tidewire" and not frame.f_code.co_filename.startswith((*_INSTALLED, "<"))


def _described(own: list[FrameType]) -> str:
    """Describe a handler by its name, and by the line of code that it has come to."""
    name, last = own[0].f_code.co_name, own[-1]
    file = last.f_code.co_filename
    line = linecache.getline(file, last.f_lineno).strip()
    return f"{name}, at {Path(file).name}:{last.f_lineno}: {line}"
