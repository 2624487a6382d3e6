"""Judges arguments of the verbs: a wrong value is explained in one sentence, at the call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from math import isfinite
from typing import Any

from tidewire.errors import BadRequest, ConfigurationError
from tidewire.messages import MAX_OFFSET, Position
from tidewire.support.shown_value import shown

__all__ = (
    "bytes_from",
    "check_is",
    "count_from",
    "flag_from",
    "headers_from",
    "moment_from",
    "offset_from",
    "position_from",
)

#: A header's name (RFC 9110 section 5.1), and its value.
_NAME, _VALUE = re.compile(rb"[\w!#$%&'*+.^`|~-]+"), re.compile(rb"[^\r\n\0]*")
#: A position that no channel has.
_NOWHERE = Position(0, "_")


def check_is(value: object, kind: Any, what: str, instead: str) -> None:
    """Raise ConfigurationError for a value that is neither of a kind nor None."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{what}={shown(value)} is none; write {instead}")


def bytes_from(value: object) -> bytes:
    """Return bytes; raises BadRequest for anything else: `bytes(5)` is five zeros, which nobody means."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise BadRequest(f"data of type {type(value).__name__} is no bytes; encode it, or use send_text or send_json")


def moment_from(value: object, name: str) -> float:
    """Return seconds since 1970, also of a datetime; raises BadRequest for anything else."""
    try:
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise BadRequest(f"{name}={shown(value)} is no time; write seconds since 1970, as time.time() + 60, or a datetime")


def count_from(value: object, name: str) -> int:
    """Return a number of publications; raises BadRequest for anything else."""
    if type(value) is int and value >= 0:
        return min(value, MAX_OFFSET)
    raise BadRequest(f"{name}={shown(value)} is no number of publications; write 0 or more")


def flag_from(value: object, name: str) -> bool:
    """Return True or False; raises BadRequest for anything else: the text 'false' would be true."""
    if isinstance(value, bool):
        return value
    raise BadRequest(f"{name}={shown(value)} is none; write True or False: the text 'false' would be true")


def headers_from(headers: object) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer; raises ConfigurationError for any that are no pairs of bytes, or not of HTTP."""
    pairs: list[tuple[bytes, bytes]] = []
    for pair in headers if isinstance(headers, Iterable) else (headers,):
        match pair:
            case (bytes() as name, bytes() as value) if _NAME.fullmatch(name) and _VALUE.fullmatch(value):
                pairs.append((name, value))
            case _:
                raise ConfigurationError(
                    f'headers= has {shown(pair)}; write pairs of bytes, as [(b"x-name", b"value")], without line breaks'
                )
    return pairs


def offset_from(expect: object) -> int | None:
    """Return the offset of an entry, or None; raises BadRequest for anything else."""
    if expect is None:
        return None
    if type(expect) is int:
        return max(-1, min(expect, MAX_OFFSET))
    raise BadRequest(f"expect={shown(expect)} is no offset; write that of the entry, or 0 for none")


def position_from(since: object) -> Position | None:
    """Return the position that an application has from its client; for text that is none, one that no channel has.

    Raises BadRequest for a value that is neither text nor a position.
    """
    if since is None or since == "":
        return None
    if isinstance(since, str):
        try:
            since = Position.parse(since)
        except ValueError:
            return _NOWHERE
    if not isinstance(since, Position):
        raise BadRequest(f"since={shown(since)} is no position; write a Position, its text or None")
    is_one = type(since.offset) is int and 0 <= since.offset <= MAX_OFFSET and isinstance(since.epoch, str)
    return since if is_one and "\0" not in since.epoch else _NOWHERE
