"""The environment of programs: of the server's variables only those that are named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase

__all__ = ("environment",)

#: Variables of this process that programs of steps get; all others may be secrets of the server.
_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TERM"),
    *("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)


def environment(passed: Iterable[str] = (), **more: str) -> dict[str, str]:
    """Return the environment of a program: some variables of this process, those that a step names, and more."""
    names = (*_PASSED, *passed)
    kept = {name: value for name, value in os.environ.items() if any(fnmatchcase(name, known) for known in names)}
    # a Python program that the step starts would hold its output back until it ends
    return kept | {"PYTHONUNBUFFERED": "1"} | more
