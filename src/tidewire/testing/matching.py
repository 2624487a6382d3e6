"""Whether a message is the one that a test expects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from tidewire.testing.journal import shown

__all__ = ("MISSING", "decoded", "described", "hint", "match", "unexpected")

#: The value of `match` where nothing matches.
MISSING: Any = object()


def match(expected: Any, raw: str | bytes, value: Any) -> Any:
    """Return a message as the test wants it, or MISSING; `raw` is the message, `value` its JSON.

    A text matches itself; anything else is compared with the JSON of the message. A model class matches each value that
    it validates, and returns the model; a function decides by itself; `...` matches anything, and as a key any further
    keys.
    """
    if expected is ...:
        return value
    if isinstance(expected, type) and issubclass(expected, BaseModel):
        return _validated(expected, value)
    if isinstance(expected, BaseModel):
        found = _validated(type(expected), value)
        return found if found == expected else MISSING
    if isinstance(expected, str | bytes):
        return expected if expected in (raw, value) else MISSING
    if callable(expected) and not isinstance(expected, type):
        return value if expected(value) else MISSING
    return value if _is_like(expected, value) else MISSING


def described(expected: Any) -> str:
    """Describe an expected message in words."""
    if expected is ...:
        return "a message"
    if isinstance(expected, type):
        return f"a {expected.__name__}"
    if callable(expected) and not isinstance(expected, BaseModel | dict | list):
        return f"a value that {getattr(expected, '__name__', 'a function')} accepts"
    if isinstance(expected, dict):
        return "{" + ", ".join(f"{_key(key)}: {described_value(value)}" for key, value in expected.items()) + "}"
    return shown(expected)


def described_value(value: Any) -> str:
    """Describe a part of an expected message in words."""
    return "..." if value is ... else shown(value)


def _key(key: Any) -> str:
    return "..." if key is ... else repr(key)


def decoded(raw: str | bytes) -> Any:
    """Return the value of a message's JSON, or the message itself if it is not JSON."""
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def hint(expected: Any, values: Iterable[Any]) -> str:
    """Return how to write an expectation that one of these messages nearly fits, or ""."""
    for value in values:
        if not isinstance(value, dict):
            continue
        if "data" in value and match(expected, "", value["data"]) is not MISSING:
            return (
                "it came as the `data` of a frame, which RECOVERABLE puts around each publication; "
                f'write expect({{"data": {described(expected)}, ...: ...}})'
            )
        if isinstance(expected, Mapping) and _is_like({**expected, ...: ...}, value):
            return "it came with further keys; `...: ...` in the expected value allows them"
    return ""


def unexpected(values: Iterable[Any]) -> str:
    """Return how to expect the answer to a subscribe, if it is among messages that nobody expected, or ""."""
    if any(isinstance(value, dict) and {"channel", "recovered"} <= value.keys() for value in values):
        return (
            "with RECOVERABLE each subscribe is answered with a frame; take it first: "
            'expect({"recovered": False, ...: ...})'
        )
    return ""


def _validated(model: type[BaseModel], value: Any) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError:
        return MISSING


def _is_like(expected: Any, value: Any) -> bool:
    if expected is ...:
        return True
    if isinstance(expected, Mapping) and isinstance(value, dict):
        named = {key: part for key, part in expected.items() if key is not ...}
        if not (named.keys() <= value.keys() if ... in expected else named.keys() == value.keys()):
            return False
        return all(_is_like(part, value[key]) for key, part in named.items())
    if isinstance(expected, list) and isinstance(value, list):
        return len(expected) == len(value) and all(map(_is_like, expected, value))
    return bool(expected == value)
