"""How a value looks in an error."""

from __future__ import annotations

__all__ = ("shown",)

#: Characters of a value in an error.
_SHOWN = 60


def shown(value: object) -> str:
    """Return a value as it is written, but short, and also one that cannot be written: a number of 5,000 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
