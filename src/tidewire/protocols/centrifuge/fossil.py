"""Differences between two publications, in the format of Fossil's deltas (fossil-scm.org, "Fossil Delta Format")."""

from __future__ import annotations

import struct

__all__ = ("apply_delta", "make_delta")

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS.encode())}
#: Bytes of one indexed block of the old version; shorter equal parts are written again.
_BLOCK = 16
#: Bytes between the equal beginning and the equal end that are searched for moved blocks, which bounds the time.
_SEARCHED = 16_384


def make_delta(old: bytes, new: bytes) -> bytes | None:
    """Return the delta from `old` to `new`, or None where that is no smaller than `new` itself.

    Parts that are written again begin and end between characters, so that the delta of UTF-8 texts is UTF-8.
    """
    parts = [_number(len(new)), b"\n"]
    written = 0
    for at, source, size in _copies(old, new):
        if at > written:
            parts += (_number(at - written), b":", new[written:at])
        parts += (_number(size), b"@", _number(source), b",")
        written = at + size
    if written < len(new):
        parts += (_number(len(new) - written), b":", new[written:])
    parts += (_number(_checksum(new)), b";")
    delta = b"".join(parts)
    return delta if len(delta) < len(new) else None


def _copies(old: bytes, new: bytes) -> list[tuple[int, int, int]]:
    """Return the parts of `new` that are in `old`: the place of each in both, and its length."""
    start = _common(old, new, 0, 0, min(len(old), len(new)))
    most = min(len(old), len(new)) - start
    end = _common_end(old, new, most)
    copies = [(0, 0, start)] if start >= _BLOCK else []
    begin = start if copies else 0
    stop = len(new) - (end if end >= _BLOCK else 0)
    if stop - begin <= _SEARCHED:
        copies += _moved(old, new, begin, stop)
    if end >= _BLOCK:
        copies.append((len(new) - end, len(old) - end, end))
    return [copy for copy in (_between_characters(new, *copy) for copy in copies) if copy[2] > 0]


def _moved(old: bytes, new: bytes, at: int, stop: int) -> list[tuple[int, int, int]]:
    """Return the blocks of `old` that stand between two places of `new`."""
    index = {old[block : block + _BLOCK]: block for block in range(0, len(old) - _BLOCK + 1, _BLOCK)}
    found: list[tuple[int, int, int]] = []
    written = at
    while at + _BLOCK <= stop:
        source = index.get(new[at : at + _BLOCK])
        if source is None:
            at += 1
            continue
        back = 0
        while at - back > written and source > back and old[source - back - 1] == new[at - back - 1]:
            back += 1
        at, source = at - back, source - back
        size = _common(old, new, source, at, min(len(old) - source, stop - at))
        found.append((at, source, size))
        at = written = at + size
    return found


def _common(old: bytes, new: bytes, source: int, at: int, most: int) -> int:
    """Return how many bytes are equal from two places on."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if old[source + low : source + middle] == new[at + low : at + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_end(old: bytes, new: bytes, most: int) -> int:
    """Return how many bytes are equal at both ends."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if old[len(old) - middle : len(old) - low] == new[len(new) - middle : len(new) - low]:
            low = middle
        else:
            high = middle - 1
    return low


def _between_characters(new: bytes, at: int, source: int, size: int) -> tuple[int, int, int]:
    """Shorten a copy so that it begins and ends between characters (RFC 3629: 10xxxxxx goes on)."""
    end = at + size
    while at < end and new[at] & 0xC0 == 0x80:
        at, source = at + 1, source + 1
    while end > at and end < len(new) and new[end] & 0xC0 == 0x80:
        end -= 1
    return at, source, end - at


def _number(value: int) -> bytes:
    digits = _DIGITS[value & 63]
    while value := value >> 6:
        digits = _DIGITS[value & 63] + digits
    return digits.encode()


def _checksum(data: bytes) -> int:
    count = -(-len(data) // 4)
    words: tuple[int, ...] = struct.unpack(f">{count}I", data.ljust(count * 4, b"\0"))
    return sum(words) & 0xFFFF_FFFF


def apply_delta(old: bytes, delta: bytes) -> bytes:
    """Return `old` with a delta applied; raises ValueError for one that does not fit."""
    size, at = _read_number(delta, 0)
    at += 1  # the new line
    parts: list[bytes] = []
    number, sign = 0, b""
    while at < len(delta):
        number, at = _read_number(delta, at)
        sign, at = delta[at : at + 1], at + 1
        if sign == b"@":
            source, at = _read_number(delta, at)
            at += 1  # the comma
            parts.append(old[source : source + number])
        elif sign == b":":
            parts.append(delta[at : at + number])
            at += number
        else:
            break
    new = b"".join(parts)
    if sign != b";" or len(new) != size or number != _checksum(new):
        raise ValueError(f"this delta of {len(delta)} bytes does not fit the version of {len(old)} bytes before it")
    return new


def _read_number(delta: bytes, at: int) -> tuple[int, int]:
    number = 0
    while at < len(delta) and delta[at] in _VALUES:
        number = number << 6 | _VALUES[delta[at]]
        at += 1
    return number, at
