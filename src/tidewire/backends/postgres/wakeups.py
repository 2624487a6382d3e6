"""The messages of nodes by NOTIFY: which channels have something new, or only that one should look. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

__all__ = ("COMMITTED", "LOOK", "NOTIFICATIONS", "decode", "encode")

#: The one notification channel.
NOTIFICATIONS = "tidewire"
#: Payloads: everything may be new; the transaction table is not empty.
LOOK, COMMITTED = "look", "outbox"
#: Bytes of a payload (PostgreSQL takes 7,999), and payloads of one wake-up; one that needs more says "look".
_PAYLOAD_BYTES, _PAYLOADS = 7_900, 8

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[tuple[str, int]]).decode


def encode(tops: Mapping[str, int]) -> list[str]:
    """Return the payloads that tell the tops of some channels."""
    payloads: list[str] = []
    part: list[bytes] = []
    size = 2
    for name, top in tops.items():
        item = _encode((name, top))
        if part and size + len(item) + 1 > _PAYLOAD_BYTES:
            payloads.append(_join(part))
            part, size = [], 2
            if len(payloads) == _PAYLOADS:
                return [LOOK]
        part.append(item)
        size += len(item) + 1
    if part:
        payloads.append(_join(part))
    return payloads


def _join(items: Iterable[bytes]) -> str:
    return (b"[" + b",".join(items) + b"]").decode()


def decode(payload: str) -> dict[str, int] | None:
    """Return the tops that a payload tells; None for a payload that this version does not understand: look."""
    try:
        return dict(_decode(payload))
    except msgspec.MsgspecError:
        return None
