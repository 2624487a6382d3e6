"""What PostgreSQL can store as a name."""

from __future__ import annotations

__all__ = ("trouble",)

#: Bytes of a name: an index has no room for two that are longer.
_NAME_BYTES = 1_200


def trouble(text: str, most: int | None = _NAME_BYTES) -> str:
    """Return why a text cannot be stored, as the end of a sentence; "" when it can."""
    if "\0" in text:
        return "has a NUL character, which PostgreSQL cannot store"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return f"has {size} bytes (the limit is {most})" if most is not None and size > most else ""
