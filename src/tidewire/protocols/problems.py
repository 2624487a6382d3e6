"""The faults of a message, in the words in which FastAPI answers a request that does not fit (422)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import ValidationError

from tidewire.errors import InvalidMessage, Problem

__all__ = ("invalid", "refused_at")

#: Problems of one message that are reported, bytes of an input that is shown, characters of a name, a place or a text,
#: of the names of a place for programs, and of all problems for people: they bound the length of answers.
_MOST = 10
_SHOWN = 200
_NAMES = 500
_TEXT = 1_700
#: Problems beyond which they are only counted: pydantic makes all of them before ten are taken.
_COUNTED = 300
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_PLACE = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")


def invalid(error: ValidationError | msgspec.ValidationError, expected: str) -> InvalidMessage:
    """Return the error for a message that does not fit a type: its text is for people, its problems for programs."""
    if isinstance(error, msgspec.ValidationError):
        problem, text = _of_msgspec(str(error))
        problems, left = [problem], 0
    else:
        problems, left = _of_pydantic(error)
        text = "; ".join(map(_text_of, problems))
    more = f"; and {left} more" if left else ""
    return InvalidMessage(
        f"the JSON has the wrong shape: {_cut(text, _TEXT)}{more}; expected {expected}", tuple(problems)
    )


def refused_at(steps: Iterable[str | int], type_: str, why: str) -> InvalidMessage:
    """Return the error for one part of a message."""
    problem = Problem(type_, _loc(steps), why)
    return InvalidMessage(_text_of(problem), (problem,))


def _text_of(problem: Problem) -> str:
    return f"{_cut('.'.join(map(str, problem.loc[1:]))) or 'the value'}: {problem.msg}"


def _of_pydantic(error: ValidationError) -> tuple[list[Problem], int]:
    """Return the first problems, and the number of the others."""
    count = error.error_count()
    if count > _COUNTED:
        return [Problem("value_error", ("body",), f"{count} parts of it do not fit")], 0
    found = [
        Problem(
            one["type"],
            _loc(one["loc"]),
            _cut(one["msg"]),
            _shown(one["input"]),
        )
        for one in error.errors(include_url=False, include_context=False)[:_MOST]
    ]
    return found, count - len(found)


def _loc(steps: Iterable[str | int]) -> tuple[str | int, ...]:
    """Return a place as programs read it; behind very long names, which a client may choose, it ends with "…"."""
    loc: list[str | int] = ["body"]
    left = _NAMES
    for step in steps:
        loc.append(_cut(step) if isinstance(step, str) else step)
        left -= len(str(loc[-1]))
        if left < 0:
            return (*loc[:-1], "…")
    return tuple(loc)


def _cut(text: str, most: int = _SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _of_msgspec(text: str) -> tuple[Problem, str]:
    """Return the problem in a text of msgspec, and the text, cut: it has the client's value in it."""
    place = _PLACE.search(text)
    steps: list[str | int] = []
    where = ""
    if place is not None:
        text, where = text[: place.start()], _cut(place[0])
        for name, index in _STEP.findall(place[1]):
            steps.append(name or (int(index) if index.isdigit() else index))
    missing = _MISSING.fullmatch(text)
    text = _cut(text)
    if missing is not None:
        return Problem("missing", _loc((*steps, missing[1])), "Field required"), f"{text}{where}"
    return Problem("value_error", _loc(steps), text), f"{text}{where}"


def _shown(value: Any) -> Any:
    """Return an input if it is short and JSON can express it, bytes as their text; otherwise it is left out."""
    try:
        value = value.decode() if isinstance(value, bytes) else value
        return value if len(msgspec.json.encode(value)) <= _SHOWN else msgspec.UNSET
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
        return msgspec.UNSET
