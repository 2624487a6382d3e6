"""Faults in the module of an application: one line that says what is wrong, and where in its code."""

from __future__ import annotations

import logging
import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tidewire
from tidewire.errors import ConfigurationError

__all__ = ("in_one_line", "mistakes_in_one_line")

_log = logging.getLogger("tidewire")

_FOLDERS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
#: How the names of files begin that are not the application's own.
_INSTALLED = ("<", *(f"{folder}{os.sep}" for folder in (*_FOLDERS, Path(tidewire.__file__).parent)))


@contextmanager
def mistakes_in_one_line(path: str) -> Iterator[None]:
    """Raise each exception of an application that is being loaded as a ConfigurationError that names the place."""
    try:
        yield
    except Exception as error:
        _log.debug("%s cannot be loaded", path, exc_info=error)
        what = str(error) if isinstance(error, ConfigurationError) else f"{path} cannot be loaded: {in_one_line(error)}"
        raise ConfigurationError(what + _place(error)) from None


def in_one_line(error: BaseException) -> str:
    """Return an error in one line: of a group, the first one that it holds."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    """Return the innermost line of the application's own code that led to an error, in parentheses."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    is_named = isinstance(error, SyntaxError) and not (error.filename or "<").startswith("<")  # in its own text
    if not own or is_named:
        return ""
    file = os.path.relpath(own[-1].filename)
    return f" ({own[-1].filename if file.startswith('..') else file}, line {own[-1].lineno})"
