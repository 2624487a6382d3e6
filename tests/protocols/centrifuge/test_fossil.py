"""Deltas: what is made of a version and its delta is the next version, and a delta of texts is a text."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.protocols.centrifuge.fossil import apply_delta, make_delta

words = st.text("abé漢😀 ", min_size=1, max_size=30)
texts = st.lists(words, max_size=12).map("".join)


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A text, and the same with pieces put in, taken out and moved."""
    parts = draw(st.lists(words, min_size=1, max_size=12))
    changed = list(parts)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(changed)))
        changed[place : place + draw(st.integers(0, 2))] = draw(st.lists(words | st.sampled_from(parts), max_size=2))
    return "".join(parts).encode(), "".join(changed).encode()


@settings(deadline=None)
@given(edits() | st.tuples(texts.map(str.encode), texts.map(str.encode)))
def test_a_delta_makes_the_next_version_and_is_smaller_and_a_text(versions: tuple[bytes, bytes]) -> None:
    old, new = versions
    delta = make_delta(old, new)
    if delta is not None:
        assert len(delta) < len(new)
        assert apply_delta(old, delta) == new
        delta.decode()


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_bytes_too(old: bytes, new: bytes) -> None:
    delta = make_delta(old, new + old + new)
    assert delta is None or apply_delta(old, delta) == new + old + new


def test_moved_blocks_are_found() -> None:
    blocks = [os.urandom(40) for _ in range(6)]
    delta = make_delta(b"".join(blocks), b"".join(reversed(blocks)))
    assert delta is not None
    assert len(delta) < 200


def test_the_format_is_that_of_the_field() -> None:
    old, new = b"0123456789abcdef" * 2, b"0123456789abcdef" * 2 + b"!"
    assert make_delta(old, new) == b"X\nW@0,1:!2YomUf;".replace(b"2YomUf", _checksum(new))
    assert make_delta(b"", b"nothing in common") is None


def _checksum(data: bytes) -> bytes:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
    data += b"\0" * (-len(data) % 4)
    value = sum(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)) % 2**32
    text = ""
    while value:
        text = digits[value % 64] + text
        value //= 64
    return text.encode()


@pytest.mark.parametrize("delta", [b"", b"3\n", b"3\n3@0,", b"3\n3@0,1;", b"9\n3@0,1;"])
def test_a_delta_that_does_not_fit_is_refused(delta: bytes) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        apply_delta(b"abc", delta)


def test_large_versions_take_little_time() -> None:
    old = os.urandom(1_000_000)
    began = time.process_time()
    assert make_delta(old, os.urandom(1_000_000)) is None
    assert make_delta(old, old[:400_000] + b"x" * 15_000 + old[400_000:]) is not None
    assert time.process_time() - began < 0.5
