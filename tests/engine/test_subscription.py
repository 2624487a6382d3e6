"""The recovery merge, against what a list says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.engine.subscription import ENDED, Subscription
from tidewire.history.recovery_merge import merge
from tidewire.messages import HistoryPage, Position, Publication
from tidewire.protocols.batch import Representation
from tidewire.protocols.plain import PLAIN


def publications(offsets: list[int], epoch: str = "e") -> list[Publication]:
    """A chain: each names the one before it."""
    return [Publication("a", o, p, epoch, 0.0, b"%d" % o) for p, o in zip([0, *offsets], offsets, strict=False)]


@st.composite
def histories(draw: Any) -> tuple[list[Publication], int, int, int, int]:
    """A channel's whole life, with strides between offsets: what is trimmed, read, buffered, and asked for."""
    strides = draw(st.lists(st.integers(1, 3), max_size=30))
    offsets = [sum(strides[: index + 1]) for index in range(len(strides))]
    everything = publications(offsets)
    read = draw(st.integers(0, len(everything)))
    trimmed = draw(st.integers(0, read))
    begun = draw(st.integers(0, read))  # buffering began before the read
    asked = draw(st.integers(0, read))
    return everything, trimmed, read, begun, asked


def top_of(life: list[Publication], count: int) -> int:
    return life[count - 1].offset if count else 0


@given(histories())
def test_each_offset_once_in_order_and_complete_or_said_not_to_be(
    history: tuple[list[Publication], int, int, int, int],
) -> None:
    life, trimmed, read, begun, asked = history
    since = Position(top_of(life, asked), "e")
    shown = tuple(p for p in life[trimmed:read] if p.offset > since.offset)
    page = HistoryPage(shown, Position(top_of(life, read), "e"), complete=trimmed <= asked)
    recovery = merge(since, page, life[begun:])
    offsets = [p.offset for p in recovery.publications]
    assert offsets == sorted(set(offsets))
    assert recovery.position == Position(top_of(life, len(life)), "e")
    assert recovery.complete is (trimmed <= asked)
    if recovery.complete:
        assert list(recovery.publications) == life[asked:]


@given(histories(), st.data())
def test_a_hole_ends_the_merge_and_is_said(
    history: tuple[list[Publication], int, int, int, int], data: st.DataObject
) -> None:
    life, _, read, begun, asked = history
    buffered = life[begun:]
    lost = data.draw(st.integers(0, len(buffered)))
    buffered = buffered[:lost] + buffered[lost + 1 :]
    since = Position(top_of(life, asked), "e")
    page = HistoryPage(tuple(life[asked:read]), Position(top_of(life, read), "e"), complete=True)
    recovery = merge(since, page, buffered)
    assert list(recovery.publications) == [p for p in life[asked:] if p.offset <= recovery.position.offset]
    missing = [p for p in life if p.offset > recovery.position.offset]
    assert recovery.complete or missing
    if recovery.complete:  # then what is missing was only at the end, where nobody can know of it
        assert not [p for p in buffered if p.offset > recovery.position.offset]


@given(st.lists(st.integers(1, 40), unique=True).map(sorted), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_a_page_that_lacks_something_is_never_complete(
    offsets: list[int], asked: int, top: int, complete: bool
) -> None:
    whole = [Publication("a", offset, offset - 1, "e", 0.0, b"") for offset in offsets if asked < offset <= top]
    page = HistoryPage(tuple(whole), Position(top, "e"), complete)
    recovery = merge(Position(asked, "e"), page, ())
    present = {p.offset for p in whole}
    if recovery.complete:
        assert asked <= top
        assert set(range(whole[0].offset if whole else top + 1, top + 1)) == present
        assert whole or asked == top


def test_another_epoch_is_not_recovered() -> None:
    page = HistoryPage(tuple(publications([1, 2])), Position(2, "e"), complete=True)
    assert not merge(Position(1, "other"), page, ()).complete
    assert not merge(Position(3, "e"), page, ()).complete


def test_what_was_delivered_in_another_epoch_ends_the_merge() -> None:
    page = HistoryPage(tuple(publications([1, 2])), Position(2, "e"), complete=True)
    recovery = merge(Position(0, "e"), page, publications([1, 2, 3], epoch="new"))
    assert (recovery.position, recovery.complete) == (Position(2, "e"), False)


@pytest.mark.parametrize("buffered", [[], [3, 4]])
def test_without_a_position_history_and_buffer_are_joined(buffered: list[int]) -> None:
    page = HistoryPage(tuple(publications([1, 2])), Position(2, "e"), complete=True)
    later = [Publication("a", offset, offset - 1, "e", 0.0, b"") for offset in buffered]
    recovery = merge(None, page, later)
    assert [p.offset for p in recovery.publications] == [1, 2, *buffered]
    assert recovery.complete


def test_a_subscription_begins_with_nothing() -> None:
    subscription = Subscription(None, "a", Representation(PLAIN))  # type: ignore[arg-type]
    assert subscription.live_after == ENDED
    subscription.buffer_behind_reply(publications([1, 2]))
    assert (len(subscription.buffer or ()), subscription.buffered_bytes) == (2, 2)
