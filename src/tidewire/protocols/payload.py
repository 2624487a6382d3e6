"""The data that an application publishes or sends, as bytes and their format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tidewire.channels import check_name
from tidewire.errors import BadRequest
from tidewire.messages import Format, WireMessage
from tidewire.protocols.base import to_utf8
from tidewire.protocols.json_text import has_huge_number
from tidewire.support.shown_value import shown

__all__ = ("check_numbers", "connection_id", "encode_json", "encode_message", "encode_payload")


def _plain(value: Any) -> Any:
    """Return a value that msgspec does not know as FastAPI sends it: pydantic models by their aliases."""
    return dict(value) if isinstance(value, Mapping) else to_jsonable_python(value, by_alias=True)


def _with_text_keys(value: Any) -> Any:
    """Return a value in which keys that are true, false or null are texts, as JSON has them."""
    if isinstance(value, Mapping):
        return {
            _KEYS.get(key, key) if key is None or isinstance(key, bool) else key: _with_text_keys(of)
            for key, of in value.items()
        }
    return list(map(_with_text_keys, value)) if isinstance(value, list | tuple) else value


_KEYS = {None: "null", True: "true", False: "false"}


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def encode_json(value: Any) -> bytes:
    """Return a value as JSON (RFC 8259): pydantic models, msgspec structs, dataclasses and plain values.

    Raises BadRequest for a value that JSON cannot express.
    """
    try:
        encoded = value.model_dump_json(by_alias=True).encode() if isinstance(value, BaseModel) else _encode(value)
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError) as error:
        encoded = _encode_again(value, error)
    check_numbers(encoded, value)
    return encoded


def check_numbers(encoded: bytes, value: Any) -> None:
    """Raise BadRequest for a JSON text with a number that not every program can read; `value` is what it says."""
    if has_huge_number(encoded):
        raise BadRequest(
            f"a value of type {type(value).__name__} has a number of 310 digits or more; send it as a string"
        )
    if b"Infinity" in encoded or b"NaN" in encoded:  # perhaps as numbers (`ser_json_inf_nan="constants"` of pydantic)
        try:
            msgspec.json.decode(encoded)
        except msgspec.DecodeError as error:
            raise BadRequest(f"a value of type {type(value).__name__} cannot be sent as JSON: {error}") from None


def _encode_again(value: Any, error: Exception) -> bytes:
    """Encode a value that failed once, as json.dumps does: with keys that are no text."""
    try:
        return _encode(_with_text_keys(value))
    except RecursionError:
        why = "it holds itself, or is nested too deeply, or a key is no text, number or date"
    except (TypeError, ValueError):
        why = str(error)
    raise BadRequest(f"a value of type {type(value).__name__} cannot be sent as JSON: {why}") from None


def encode_payload(data: Any) -> tuple[bytes, Format]:
    """Return str as text, bytes as binary, and anything else as JSON; raises BadRequest."""
    if isinstance(data, str):
        try:
            return data.encode(), _TEXT
        except UnicodeEncodeError:
            return to_utf8(data), _TEXT  # it fails again, and the error gives the reason
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), Format.BINARY
    return encode_json(data), Format.JSON


_TEXT = Format.TEXT  # as a global, for every message: an attribute of an enumeration is dear


def connection_id(connection: object, argument: str = "connection") -> str:
    """Return the id of a connection, given itself or by its id; "" for None. Raises BadRequest for anything else."""
    found = "" if connection is None else getattr(connection, "id", connection)
    if isinstance(found, str):
        return check_name(found, "connection") if found else ""
    raise BadRequest(f"{argument}={shown(connection)} is no connection; write the one of hub.connect, or its id")


def encode_message(data: Any) -> WireMessage:
    """Return one message for one client: text for str and JSON, binary for bytes."""
    encoded, format_ = encode_payload(data)
    return WireMessage(encoded, format_ is Format.BINARY)
