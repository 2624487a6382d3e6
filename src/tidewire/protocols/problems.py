"""The faults of a message, in the words in which FastAPI answers a request that does not fit (422)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import ValidationError

from tidewire.errors import InvalidMessage, Problem

__all__ = ("invalid", "problems_of")

#: Problems of one message that are reported, and bytes of an input that is shown: both bound the length of answers.
_MOST = 10
_SHOWN = 200
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_PLACE = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")


def invalid(error: ValidationError | msgspec.ValidationError, text: str) -> InvalidMessage:
    """Return the error for a message that does not fit a type; `text` is for people, the problems are for programs."""
    return InvalidMessage(text, tuple(problems_of(error)))


def problems_of(error: ValidationError | msgspec.ValidationError) -> Iterable[Problem]:
    """Return the problems that pydantic or msgspec found, as many as an answer holds."""
    if isinstance(error, msgspec.ValidationError):
        return [_of_msgspec(str(error))]
    found = error.errors(include_url=False, include_context=False)[:_MOST]
    return [Problem(one["type"], ("body", *one["loc"]), one["msg"], _shown(one["input"])) for one in found]


def _of_msgspec(text: str) -> Problem:
    place = _PLACE.search(text)
    loc: list[str | int] = ["body"]
    if place is not None:
        text = text[: place.start()]
        for name, index in _STEP.findall(place[1]):
            loc.append(name or (int(index) if index.isdigit() else index))
    missing = _MISSING.fullmatch(text)
    if missing is not None:
        return Problem("missing", (*loc, missing[1]), "Field required")
    return Problem("value_error", tuple(loc), text)


def _shown(value: Any) -> Any:
    """Return an input if it is short and JSON can express it, bytes as their text; otherwise it is left out."""
    try:
        value = value.decode() if isinstance(value, bytes) else value
        return value if len(msgspec.json.encode(value)) <= _SHOWN else msgspec.UNSET
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
        return msgspec.UNSET
