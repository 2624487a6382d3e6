"""Inputs for a target, from good ones: what a seed number makes is always the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from .targets import SEEDS

__all__ = ("FOLDER", "inputs", "kept")

#: Inputs that have failed once, one file each, named by their target.
FOLDER = Path(__file__).with_name("seeds")
#: Pieces that readers of bytes have stumbled over.
_PIECES = [
    b"\x00",
    b"\xff" * 9,
    b"\r\n",
    b"\n\n",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"null",
]
_PIECES += [
    b"-1",
    b"1e999",
    b"9" * 400,
    b"18446744073709551616",
    b"[" * 200,
    b'{"a":' * 100,
    b"NaN",
    b"true",
    b"{}",
    b"",
]


def kept(target: str) -> list[bytes]:
    """Return the inputs that have failed once."""
    return [path.read_bytes() for path in sorted(FOLDER.glob(f"{target}-*"))]


def inputs(target: str, seed: int) -> Iterator[bytes]:
    """Yield inputs without end."""
    choice, good = random.Random(seed), SEEDS[target] + kept(target)
    yield from good
    while True:
        data = bytearray(choice.choice(good) * choice.choice((1, 1, 1, 2, 5)))
        for _ in range(choice.choice((0, 1, 1, 2, 4, 8))):
            _mutate(choice, data, good)
        yield bytes(data)


def _mutate(choice: random.Random, data: bytearray, good: list[bytes]) -> None:
    start = choice.randrange(len(data) + 1)
    end = min(len(data), start + choice.choice((0, 1, 2, 8)))
    kind = choice.randrange(5)
    if kind == 0:
        data[start:end] = choice.randbytes(end - start)
    elif kind == 1:
        data[start:end] = choice.choice(_PIECES)
    elif kind == 2:
        del data[start:end]
    elif kind == 3:
        data[start:start] = data[start:end] * choice.choice((1, 3, 50))
    else:
        data[start:end] = choice.choice(good)
