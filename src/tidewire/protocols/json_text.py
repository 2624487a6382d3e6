"""Decoding of JSON that strangers send: typed, bounded in depth, with errors that say what was expected."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from tidewire.errors import BadRequest

__all__ = ("JsonDecoder", "is_deeper", "with_whole_characters")

#: Escapes: a pair of surrogates, one alone (which is half a character), or any other (RFC 8259 section 7).
_ESCAPES = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)

T = TypeVar("T")


class JsonDecoder:
    """Decodes one msgspec type; raises BadRequest for anything else."""

    __slots__ = ("_decode", "_depth", "_expected")

    def __init__(self, type_: object, *, expected: str, depth: int = 64) -> None:
        self._decode = msgspec.json.Decoder(type_).decode
        self._expected = expected
        self._depth = depth

    def decode(self, data: bytes) -> object:
        """Decode a whole JSON text (RFC 8259)."""
        if data.count(b"{") + data.count(b"[") > self._depth and is_deeper(data, self._depth):
            raise BadRequest(f"the JSON is nested deeper than the limit of {self._depth}")
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise BadRequest(f"the JSON has the wrong shape: {error}; expected {self._expected}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"this is not JSON: {error}; expected {self._expected}") from None


def with_whole_characters(data: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half of a character: a browser writes them where it cut a text."""
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)


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
