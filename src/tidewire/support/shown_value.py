"""How a value looks in an error."""

from __future__ import annotations

import re

__all__ = ("kind_of", "shown", "shown_url")

#: Characters of a value in an error.
_SHOWN = 60
_USER = re.compile(r"^([a-z][a-z0-9+.-]*:/+)?.*@", re.IGNORECASE | re.DOTALL)


def shown(value: object) -> str:
    """Return a value as it is written, but short, and also one that cannot be written: a number of 5,000 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def kind_of(value: object) -> str:
    """Return words for a value that stands where a secret belongs, and may be one: "of type bytes", or "None"."""
    return "None" if value is None else f"of type {type(value).__name__}"


def shown_url(url: str) -> str:
    """Return an address as it is written, but short, and without its user, password and query."""
    return shown(_USER.sub(r"\1", url).partition("?")[0])
