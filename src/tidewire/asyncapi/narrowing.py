"""Whether every value of one schema is a value of another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tidewire.asyncapi.schemas import resolved

__all__ = ("Narrowing",)

#: Sizes that a value must keep, and whether a greater one is the narrower one.
_SIZES = {"minLength": 1, "minItems": 1, "maxLength": -1, "maxItems": -1}
#: The formats of texts that clients read as something else (asyncapi.python).
_READ_FORMATS = ("date-time", "date", "uuid")


class Narrowing:
    """Compares the types that one document writes with those that another one reads.

    A reader (`is_reading`) does not check bounds, only which fields there are and their types.
    """

    def __init__(self, written: Mapping[str, Any], read: Mapping[str, Any], *, is_reading: bool = False) -> None:
        self._written = written
        self._read = read
        self._is_reading = is_reading
        #: The problems of each two definitions; none as long as these are compared, for they may hold themselves.
        self._found: dict[tuple[str, str], list[str]] = {}

    def problems(self, written: Any, read: Any, where: str = "") -> Iterator[str]:
        """Yield the places at which a value of `written` would not be one of `read`."""
        pair = (str(written.get("$ref", "")), str(read.get("$ref", "")))
        if all(pair):
            if pair not in self._found:
                self._found[pair] = []
                self._found[pair] = list(self._compared(written, read))
            found: Iterator[str] | list[str] = self._found[pair]
        else:
            found = self._compared(written, read)
        yield from (where + problem for problem in found)

    def _compared(self, written: Any, read: Any) -> Iterator[str]:
        # a reference stays one where a union is passed: by it a type that holds itself is known again
        source, target = resolved(written, self._written), resolved(read, self._read)
        alternatives = source.get("anyOf") or source.get("oneOf")
        if alternatives:
            for one in alternatives:
                yield from self.problems(one, read)
            return
        choices = target.get("anyOf") or target.get("oneOf")
        if choices:
            found = [list(self.problems(written, one)) for one in choices]
            if all(found):
                yield from min(found, key=len)
            return
        yield from self._plain(source, target)

    def _plain(self, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        wanted, given = _values(read), _values(written)
        if wanted is not None:
            if given is None or not set(map(repr, given)) <= set(map(repr, wanted)):
                yield f": it may be {_listed(given)}, which is not among {_listed(wanted)}"
            return
        kinds, other = _kinds(written), _kinds(read)
        if other and not (kinds and kinds <= other):
            yield (
                f": it is {_listed(sorted(kinds))} now, and was {_listed(sorted(other))}"
                if self._is_reading
                else f": it must be {_listed(sorted(other))}, and was {_listed(sorted(kinds))}"
            )
            return
        if not self._is_reading:
            yield from _bounds(written, read)
        elif read.get("format") in _READ_FORMATS and written.get("format") != read["format"]:
            yield f": format is {written.get('format', 'not set')} now, and was {read['format']}"
        if "properties" in read or "additionalProperties" in read:
            yield from self._fields(written, read)
        yield from self._items(written.get("items"), read.get("items"))

    def _items(self, written: Any, read: Any) -> Iterator[str]:
        if isinstance(read, list) and written is not None:
            if not isinstance(written, list):
                yield f": it may have any number of items instead of {len(read)}"
            elif len(read) != len(written):
                yield f": it has {len(written)} items instead of {len(read)}"
        if isinstance(read, Mapping) and isinstance(written, Mapping):
            yield from self.problems(written, read, "[]")
        elif isinstance(written, list):
            wanted = read if isinstance(read, list) else [read or {}] * len(written)
            for number, (one, another) in enumerate(zip(written, wanted, strict=False)):
                yield from self.problems(one, another, f"[{number}]")

    def _fields(self, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        given, wanted = written.get("properties", {}), read.get("properties", {})
        required = read.get("required", ())
        for name, schema in wanted.items():
            if name not in given:
                if name in required:
                    yield f".{name}: " + ("it is gone" if self._is_reading else "it is required now")
                continue
            if name in required and name not in written.get("required", ()):
                yield f".{name}: " + ("it may be missing now" if self._is_reading else "it is required now")
            yield from self.problems(given[name], schema, f".{name}")
        rest = read.get("additionalProperties")
        if rest is False:
            yield from (f".{name}: it is refused now" for name in given if name not in wanted)
        elif isinstance(rest, Mapping):
            for name in given:
                if name not in wanted:
                    yield from self.problems(given[name], rest, f".{name}")
            others = written.get("additionalProperties", not given)
            if others is not False:
                yield from self.problems(others if isinstance(others, Mapping) else {}, rest, ".*")


def _bounds(written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
    for name, sign in (("inimum", 1), ("aximum", -1)):
        (tighter, known, bound), (_, before, was) = _bound(read, name, sign), _bound(written, name, sign)
        if known > before:
            yield f": {tighter} is {bound} now, and was {'not set' if was is None else was}"
    for name, sign in _SIZES.items():
        is_bound = read.get(name, 0) > 0 if sign > 0 else name in read  # at least none is no bound, at most none is one
        if is_bound and (name not in written or written[name] * sign < read[name] * sign):
            yield f": {name} is {read[name]} now, and was {written.get(name, 'not set')}"
    for name in ("pattern", "format"):
        if name in read and written.get(name) != read[name]:
            yield f": {name} is {read[name]} now, and was {written.get(name, 'not set')}"
    step = read.get("multipleOf")
    if step and ("multipleOf" not in written or written["multipleOf"] % step):
        yield f": multipleOf is {step} now, and was {written.get('multipleOf', 'not set')}"


def _bound(schema: Mapping[str, Any], name: str, sign: int) -> tuple[str, tuple[float, bool], float | None]:
    """Return the name of a schema's tightest bound on one side, a value that is greater for a tighter one, and it."""
    found: list[tuple[tuple[float, bool], str, float]] = []
    for word, is_exclusive in ((f"m{name}", False), (f"exclusiveM{name}", True)):
        if word in schema:
            value = sign * schema[word]
            if is_exclusive and schema.get("type") == "integer":
                value, is_exclusive = math.floor(value) + 1, False
            found.append(((value, is_exclusive), word, schema[word]))
    if not found:
        return "", (-math.inf, False), None
    tightness, word, bound = max(found)
    return word, tightness, bound


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """Return the types that a schema allows; an integer is a number, too. Empty: any."""
    kind = schema.get("type")
    values = _values(schema)
    if kind is None and values is not None:
        return {_kind_of(value) for value in values}
    found = {kind} if isinstance(kind, str) else set(kind or ())
    if not found and "properties" in schema:
        found = {"object"}
    return found | ({"integer"} if "number" in found else set())


def _kind_of(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _listed(values: Any) -> str:
    return "anything" if not values else " or ".join(map(str, values))
