"""The faults of a message, in the words in which FastAPI answers a request that does not fit (422)."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from pydantic import ValidationError

from tidewire.errors import InvalidMessage, Problem

__all__ = ("invalid",)

#: Problems of one message that are reported, bytes of an input that is shown, characters of a name or text in one: they
#: bound the length of answers.
_MOST = 10
_SHOWN = 200
#: Problems beyond which they are only counted: pydantic makes all of them before ten are taken.
_COUNTED = 300
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_PLACE = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")


def invalid(error: ValidationError | msgspec.ValidationError, expected: str) -> InvalidMessage:
    """Return the error for a message that does not fit a type: its text is for people, its problems for programs."""
    if isinstance(error, msgspec.ValidationError):
        problems, left, text = [_of_msgspec(str(error))], 0, str(error)
    else:
        problems, left = _of_pydantic(error)
        text = "; ".join(f"{'.'.join(map(str, one.loc[1:])) or 'the value'}: {one.msg}" for one in problems)
    more = f"; and {left} more" if left else ""
    return InvalidMessage(f"the JSON has the wrong shape: {text}{more}; expected {expected}", tuple(problems))


def _of_pydantic(error: ValidationError) -> tuple[list[Problem], int]:
    """Return the first problems, and the number of the others."""
    count = error.error_count()
    if count > _COUNTED:
        return [Problem("value_error", ("body",), f"{count} parts of it do not fit")], 0
    found = [
        Problem(
            one["type"],
            ("body", *(_cut(step) if isinstance(step, str) else step for step in one["loc"])),
            _cut(one["msg"]),
            _shown(one["input"]),
        )
        for one in error.errors(include_url=False, include_context=False)[:_MOST]
    ]
    return found, count - len(found)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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
