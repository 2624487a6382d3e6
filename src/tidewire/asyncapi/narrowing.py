"""Whether every value of one schema is a value of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tidewire.asyncapi.schemas import resolved

__all__ = ("Narrowing",)

#: Bounds that a value must keep, and whether a greater one is the narrower one.
_BOUNDS = {
    "minimum": 1,
    "exclusiveMinimum": 1,
    "minLength": 1,
    "minItems": 1,
    "maximum": -1,
    "exclusiveMaximum": -1,
    "maxLength": -1,
    "maxItems": -1,
}


class Narrowing:
    """Compares the types that one document writes with those that another one reads.

    A reader (`is_reading`) does not check bounds, only which fields there are and their types.
    """

    def __init__(self, written: Mapping[str, Any], read: Mapping[str, Any], *, is_reading: bool = False) -> None:
        self._written = written
        self._read = read
        self._is_reading = is_reading
        self._compared: set[tuple[str, str]] = set()

    def problems(self, written: Any, read: Any, where: str) -> Iterator[str]:
        """Yield the places at which a value of `written` would not be one of `read`."""
        pair = (str(written.get("$ref", "")), str(read.get("$ref", "")))
        if all(pair):
            if pair in self._compared:
                return
            self._compared.add(pair)
        written, read = resolved(written, self._written), resolved(read, self._read)
        alternatives = written.get("anyOf") or written.get("oneOf")
        if alternatives:
            for one in alternatives:
                yield from self.problems(one, read, where)
            return
        choices = read.get("anyOf") or read.get("oneOf")
        if choices:
            found = [list(self.problems(written, one, where)) for one in choices]
            if all(found):
                yield from min(found, key=len)
            return
        yield from self._plain(written, read, where)

    def _plain(self, written: Mapping[str, Any], read: Mapping[str, Any], where: str) -> Iterator[str]:
        wanted, given = _values(read), _values(written)
        if wanted is not None:
            if given is None or not set(map(repr, given)) <= set(map(repr, wanted)):
                yield f"{where}: it may be {_listed(given)}, which is not among {_listed(wanted)}"
            return
        kinds, other = _kinds(written), _kinds(read)
        if other and not (kinds and kinds <= other):
            yield (
                f"{where}: it is {_listed(sorted(kinds))} now, and was {_listed(sorted(other))}"
                if (self._is_reading)
                else f"{where}: it must be {_listed(sorted(other))}, and was {_listed(sorted(kinds))}"
            )
            return
        if not self._is_reading:
            yield from self._bounds(written, read, where)
        if "properties" in read or "additionalProperties" in read:
            yield from self._fields(written, read, where)
        if isinstance(read.get("items"), Mapping) and isinstance(written.get("items"), Mapping):
            yield from self.problems(written["items"], read["items"], f"{where}[]")
        elif isinstance(read.get("items"), list) and isinstance(written.get("items"), list):
            if len(read["items"]) != len(written["items"]):
                yield f"{where}: it has {len(written['items'])} items instead of {len(read['items'])}"
            for number, (one, another) in enumerate(zip(written["items"], read["items"], strict=False)):
                yield from self.problems(one, another, f"{where}[{number}]")

    def _fields(self, written: Mapping[str, Any], read: Mapping[str, Any], where: str) -> Iterator[str]:
        given, wanted = written.get("properties", {}), read.get("properties", {})
        required = read.get("required", ())
        for name, schema in wanted.items():
            if name not in given:
                if name in required:
                    yield f"{where}.{name}: " + ("it is gone" if self._is_reading else "it is required now")
                continue
            if name in required and name not in written.get("required", ()):
                yield (
                    f"{where}.{name}: it may be missing now"
                    if self._is_reading
                    else f"{where}.{name}: it is required now"
                )
            yield from self.problems(given[name], schema, f"{where}.{name}")
        if read.get("additionalProperties") is False:
            yield from (f"{where}.{name}: it is refused now" for name in given if name not in wanted)

    def _bounds(self, written: Mapping[str, Any], read: Mapping[str, Any], where: str) -> Iterator[str]:
        for name, sign in _BOUNDS.items():
            if name in read and (name not in written or written[name] * sign < read[name] * sign):
                if name in ("minLength", "minItems") and not read[name]:
                    continue
                yield f"{where}: {name} is {read[name]} now, and was {written.get(name, 'not set')}"
        for name in ("pattern", "format", "multipleOf"):
            if name in read and written.get(name) != read[name]:
                yield f"{where}: {name} is {read[name]} now, and was {written.get(name, 'not set')}"


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
