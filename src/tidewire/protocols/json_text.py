"""Decoding of JSON that strangers send: typed, bounded in depth, with errors that name the expected type."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, get_args

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from tidewire.errors import BadRequest, InvalidMessage
from tidewire.protocols.problems import invalid
from tidewire.protocols.type_text import text_of
from tidewire.protocols.typed_dicts import portable

__all__ = ("JsonDecoder", "adapter_of", "decode_leniently", "has_huge_number", "is_deeper", "with_whole_characters")

#: Escapes: a pair of surrogates, one alone (which is half a character), or any other (RFC 8259 section 7).
_ESCAPES = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)

_BACKSLASH = ord("\\")

#: Digits of a number beyond double precision: one program could publish it, and another could not read it.
_HUGE = 310
_STRIDE = _HUGE // 2
_DIGITS = re.compile(rb'"(?:[^"\\]|\\.)*"|(\d{%d})' % _HUGE, re.DOTALL)
_SAMPLED = re.compile(rb"\d(?=\d)")

T = TypeVar("T")


class JsonDecoder:
    """Decodes one type; raises InvalidMessage for another one, and BadRequest for a text that is not JSON.

    Structs of msgspec, and values of any type, are decoded by msgspec; any other type by pydantic, wherever in it the
    constraint of an annotation stands; with an `adapter` of pydantic, by that. `expected` describes the type in errors;
    by default its fields do (`type_text`).
    """

    __slots__ = ("_decode", "_depth", "_expected", "_schema")

    def __init__(
        self, type_: Any, *, expected: str = "", depth: int = 64, adapter: TypeAdapter[Any] | None = None
    ) -> None:
        if adapter is None and type_ not in (Any, object):
            adapter = adapter_of(type_)
        self._schema: Callable[[], dict[str, Any]]
        self._decode: Callable[[bytes], object]
        if adapter is None:
            self._schema = partial(msgspec.json.schema, type_)
            self._decode = msgspec.json.Decoder(type_).decode
        else:
            self._schema = adapter.json_schema
            self._decode = _strictly(adapter.validate_json)
        self._expected = expected or ("any JSON value" if type_ in (Any, object) else "")
        self._depth = depth

    def decode(self, data: bytes) -> object:
        """Decode a whole JSON text (RFC 8259)."""
        if data.count(b"{") + data.count(b"[") > self._depth and is_deeper(data, self._depth):
            raise BadRequest(f"the JSON is nested deeper than the limit of {self._depth}")
        if has_huge_number(data):
            raise BadRequest(f"the JSON has a number of {_HUGE} digits or more; send it as a string")
        try:
            return self._decode(with_whole_characters(data))
        except (ValidationError, msgspec.ValidationError) as error:
            raise self.refusal(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"this is not JSON: {error}; expected {self._described()}") from None

    def refusal(self, error: ValidationError | msgspec.ValidationError) -> InvalidMessage:
        """Return the error for a value that is not of the type."""
        return invalid(error, self._described())

    def _described(self) -> str:
        if not self._expected:
            try:
                self._expected = text_of(self._schema())
            except (TypeError, PydanticUserError):
                self._expected = "another shape"
        return self._expected


def _strictly(decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Return a decoder that refuses NaN, Infinity and 1e999, which pydantic reads and RFC 8259 does not have."""

    def decode_strictly(data: bytes) -> T:
        value = decode(data)
        try:
            msgspec.json.decode(data)
        except msgspec.ValidationError:
            raise msgspec.DecodeError("a number is out of range") from None
        return value

    return decode_strictly


def adapter_of(type_: Any) -> TypeAdapter[Any] | None:
    """Return a type as pydantic takes it, None for one that msgspec decodes; raises for one that neither knows."""
    if _is_of_msgspec(type_):
        msgspec.json.schema(type_)
        return None
    try:
        return TypeAdapter(portable(type_))
    except PydanticUserError as error:
        try:
            msgspec.json.schema(type_)  # a struct inside of a dataclass
        except (TypeError, NameError):
            raise error from None
    return None


def _is_of_msgspec(type_: Any) -> bool:
    """Return whether a struct of msgspec, or a constraint for one, is a part of a type."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return True
    return isinstance(type_, msgspec.Meta) or any(map(_is_of_msgspec, get_args(type_)))


def with_whole_characters(data: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half of a character, which a browser writes where it cut a text.

    A text without halves is returned unchanged.
    """
    if _BACKSLASH not in data or b"\\u" not in data:
        return data
    whole = _ESCAPES.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
    return data if whole == data else whole


def decode_leniently(decode: Callable[[bytes], T], data: bytes) -> T:
    """Decode JSON in which null means that a field is missing, except for `data`; raises as `decode` does."""
    if _BACKSLASH in data:
        data = with_whole_characters(data)
    try:
        return decode(data)
    except msgspec.ValidationError:
        if b"null" not in data:
            raise
    return decode(_without_nulls(data))


def _without_nulls(data: bytes) -> bytes:
    """Return a JSON text without the fields of objects that are null; `data` is the application's, and stays."""
    first = data.lstrip()[:1]
    if first == b"{":
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        return msgspec.json.encode(
            {
                name: msgspec.Raw(bytes(raw) if name == "data" else _without_nulls(bytes(raw)))
                for name, raw in fields.items()
                if name == "data" or bytes(raw) != b"null"
            }
        )
    if first == b"[":
        items = msgspec.json.decode(data, type=list[msgspec.Raw])
        return msgspec.json.encode([msgspec.Raw(_without_nulls(bytes(raw))) for raw in items])
    return data


def has_huge_number(data: bytes) -> bool:
    """Return whether a JSON text has a number of so many digits that not every program can read it."""
    if len(data) < _HUGE:
        return False
    # so long a number has two samples, with nothing but digits between them
    samples = data[::_STRIDE]
    places = [found.start() * _STRIDE for found in _SAMPLED.finditer(samples)]
    if not any(data[place : place + _STRIDE].isdigit() for place in places):
        return False
    return any(found[1] for found in _DIGITS.finditer(data))


def is_deeper(data: bytes, limit: int) -> bool:
    """Return whether the brackets outside of strings are nested deeper than a limit."""
    depth = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            if depth > limit:
                return True
        elif byte in b"}]":
            depth -= 1
    return False
