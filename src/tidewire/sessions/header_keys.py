"""Keys that callers send in a header."""

from __future__ import annotations

import hmac
import unicodedata

from tidewire.errors import ConfigurationError
from tidewire.support.shown_value import kind_of

__all__ = ("check_key", "is_key")


def check_key(key: object) -> str:
    """Return a key that a header can hold; raises ConfigurationError for any other value, which may be a secret."""
    if not isinstance(key, str):
        raise ConfigurationError(f"a key {kind_of(key)} is no key; write text")
    if key != key.strip() or any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        raise ConfigurationError(
            "no header can hold this key; leave out control characters, halves of characters, and spaces at its ends"
        )
    return key


def is_key(given: str, key: str) -> bool:
    """Return whether the text of a header or a query is a key; some clients send a header in UTF-8, most as Latin-1."""
    expected = key.encode()
    sent = given.encode("latin-1", "backslashreplace")
    return hmac.compare_digest(given.encode(), expected) or hmac.compare_digest(sent, expected)
