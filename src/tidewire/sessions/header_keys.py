"""Keys that callers send in a header."""

from __future__ import annotations

from tidewire.errors import ConfigurationError
from tidewire.support.shown_value import shown

__all__ = ("check_key",)


def check_key(key: object) -> str:
    """Return a key that a header can hold as it is; raises ConfigurationError for any other value."""
    if not isinstance(key, str):
        raise ConfigurationError(f"key={shown(key)} is no key; write text")
    if key != key.strip() or not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            "no header can hold this key; write ASCII letters, digits and signs, and no space at its ends"
        )
    return key
