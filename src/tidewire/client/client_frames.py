"""Reads the frames of a server; pure. No content of a frame may end a client, even if it cannot be read."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from tidewire.errors import TidewireError
from tidewire.protocols.centrifuge.messages import Reply
from tidewire.protocols.json_text import with_whole_characters

__all__ = ("Unreadable", "frame_id", "frame_name", "read_json", "read_reply")

#: Digits of the longest number that Python reads as an integer within reasonable time.
_DIGITS = 4_000
_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
_ID = re.compile(rb'\{"id":(\d+)[,}]')
_CHANNEL = re.compile(rb'"channel":"((?:[^"\\]|\\.)*)"')
_OFFSET = re.compile(rb'"offset":(\d+)[^"]*$')
_SHOWN = 80

_decode_reply = msgspec.json.Decoder(Reply).decode
_decode = msgspec.json.Decoder().decode


class Unreadable(TidewireError):
    """Raised for data that is not JSON, or that no program can hold."""


def read_reply(line: bytes) -> Reply:
    """Return one reply or push of a frame. Raises Unreadable."""
    try:
        return _decode_reply(line)
    except _ERRORS:
        pass
    try:
        return _decode_reply(with_whole_characters(line))
    except _ERRORS as error:
        raise Unreadable(_why(error)) from None


def read_json(data: bytes) -> Any:
    """Return the value of a JSON text: U+FFFD for half a character, a float for a huge number. Raises Unreadable."""
    try:
        return _decode(data)
    except _ERRORS:
        pass
    try:
        return json.loads(with_whole_characters(data), parse_int=_integer)
    except _ERRORS as error:
        raise Unreadable(_why(error)) from None


def frame_id(line: bytes) -> int:
    """Return the number of the command that an unreadable line answers, 0 for a push."""
    found = _ID.match(line)
    return int(found[1]) if found else 0


def frame_name(line: bytes) -> str:
    """Return which publication an unreadable line has, as far as that can be seen."""
    channel, offset = _CHANNEL.search(line), _OFFSET.search(line)
    if channel is None:
        return f"the message {line[:_SHOWN].decode(errors='replace')!r}"
    name = channel[1][:255].decode(errors="replace")
    return f"publication {offset[1].decode()} of {name!r}" if offset else f"a message of {name!r}"


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _why(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)
