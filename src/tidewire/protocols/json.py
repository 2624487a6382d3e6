"""The JSON protocol: published JSON objects as they are, stamped with their time, and errors as objects too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from tidewire.errors import CommandError, InvalidMessage, RateLimited
from tidewire.limits import Limits
from tidewire.messages import Dropped, Publication, Subscribed, WireMessage
from tidewire.messages import Format as _Format
from tidewire.protocols.base import Protocol, to_utf8
from tidewire.protocols.json_text import JsonDecoder, with_whole_characters
from tidewire.protocols.native_commands import Publish

__all__ = ("JSON", "JsonProtocol", "iso_time", "with_fields")

_encode = msgspec.json.Encoder().encode


def iso_time(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def with_fields(data: bytes, fields: bytes) -> bytes:
    """Return a JSON object with more fields in front of its closing brace; anything else as it is."""
    if not (data.startswith(b"{") and data.endswith(b"}")):
        return data
    return data[:-1] + (b"" if len(data) == 2 else b",") + fields + b"}"


class JsonProtocol(Protocol[Publish]):
    """Publications are sent as JSON text; objects get a `timestamp` (ISO 8601), when the broker kept them.

    Errors are `{"type": "error", "code": …, "content": …}`, with a `detail` as FastAPI's for a message that does not
    fit its type. `json_depth` is how deep a client's JSON may be nested.
    """

    def __init__(self, *, json_depth: int = Limits().json_depth) -> None:
        self._decoder = JsonDecoder(Any, expected="any JSON value", depth=json_depth)

    def decode(self, message: str | bytes) -> Sequence[Publish]:
        data = (to_utf8(message) if isinstance(message, str) else message).strip()
        data = with_whole_characters(data)
        self._decoder.decode(data)
        return (Publish(data, _Format.JSON),)

    def encode_publication(self, publication: Publication) -> WireMessage | None:
        if publication.format is _Format.BINARY:
            return WireMessage(publication.data, binary=True)
        return WireMessage(with_fields(publication.data, b'"timestamp":"%b"' % iso_time(publication.time).encode()))

    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        found = map(self.encode_publication, reply.publications)
        return [message for message in found if message is not None]

    def encode_error(self, error: CommandError) -> WireMessage:
        more: dict[str, Any] = {"detail": error.problems} if isinstance(error, InvalidMessage) else {}
        if isinstance(error, RateLimited) and error.retry_after is not None:
            more = {"retry_after": error.retry_after}
        return _message({"type": "error", "code": error.code, "content": str(error), **more})

    def encode_pong(self) -> WireMessage | None:
        return _message({"type": "pong"})

    def encode_dropped(self, push: Dropped) -> WireMessage:
        return _message({"type": "error", "code": "dropped", "content": f"{push.count} messages were dropped"})


def _message(value: dict[str, Any]) -> WireMessage:
    return WireMessage(_encode(value))


#: The instance that connections share.
JSON = JsonProtocol()
