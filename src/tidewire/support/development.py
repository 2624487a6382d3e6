"""Whether this process runs an application under development: the variable that FastAPI's own command sets."""

from __future__ import annotations

import os

__all__ = ("begin_development", "is_development")

#: `fastapi dev` sets it to "development".
_VARIABLE, _DEVELOPMENT = "FASTAPI_ENV", "development"


def is_development() -> bool:
    """Return whether this process is said to be for development; where nothing is said, it is not."""
    return os.environ.get(_VARIABLE) == _DEVELOPMENT


def begin_development(*, only_this_machine: bool) -> str:
    """Mark this process, and those that it starts, as `fastapi dev` does; return why that is refused, or "".

    It is refused where the variable says something else, and where other machines may come.
    """
    said = os.environ.get(_VARIABLE, _DEVELOPMENT)
    if said != _DEVELOPMENT:
        return f"FASTAPI_ENV is {said!r}; leave out --playground"
    if not only_this_machine:
        return "other machines can reach this server; leave out --playground, or listen on 127.0.0.1"
    os.environ[_VARIABLE] = _DEVELOPMENT
    return ""
