"""What arrives live is put into the order of its offsets, and names the offset before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewire.backends.nats.ordering import HELD_COUNT, OrderedChannel
from tidewire.messages import Publication


def publication(offset: int) -> Publication:
    return Publication("a", offset, 0, "e", 0.0, b"")


def settled(sequence: int = 0, top: int | None = None) -> OrderedChannel:
    ordered = OrderedChannel()
    assert ordered.settle(sequence, sequence if top is None else top) == []
    return ordered


def links(found: list[Publication]) -> list[tuple[int, int]]:
    return [(one.offset, one.previous) for one in found]


def test_what_comes_in_order_is_handed_over_at_once() -> None:
    ordered = settled()
    assert links(ordered.take(0, publication(3))) == [(3, 0)]
    assert links(ordered.take(3, publication(7))) == [(7, 3)]
    assert not ordered.is_waiting


def test_what_comes_before_its_predecessor_waits_for_it() -> None:
    ordered = settled(3)
    assert ordered.take(5, publication(8)) == []
    assert ordered.is_waiting
    assert links(ordered.take(3, publication(5))) == [(5, 3), (8, 5)]
    assert not ordered.is_waiting


def test_what_never_comes_is_given_up_and_shows_as_a_gap() -> None:
    ordered = settled(3)
    assert ordered.take(5, publication(8)) == []
    assert links(ordered.give_up()) == [(8, 5)]
    assert ordered.take(3, publication(5)) == []


def test_more_than_may_wait_is_given_up() -> None:
    ordered = settled(1)
    found: list[Publication] = []
    for offset in range(3, HELD_COUNT + 4):
        found += ordered.take(offset - 1, publication(offset))
    assert [one.offset for one in found] == list(range(3, HELD_COUNT + 4))


def test_nothing_is_handed_over_before_the_position_is_known() -> None:
    ordered = OrderedChannel()
    assert ordered.take(5, publication(8)) == []
    assert not ordered.is_waiting
    assert links(ordered.settle(5, 5)) == [(8, 5)]


def test_what_the_position_already_covers_is_not_handed_over() -> None:
    ordered = OrderedChannel()
    assert ordered.take(3, publication(5)) == []
    assert ordered.settle(5, 5) == []


def test_after_a_removed_history_the_next_names_the_position_and_not_the_marker() -> None:
    ordered = settled(3)
    assert ordered.take_marker(4, 3, 3) == []
    assert links(ordered.take(4, publication(9))) == [(9, 3)]
    assert links(settled(4, 3).take(4, publication(9))) == [(9, 3)]


def test_a_predecessor_that_is_no_longer_stored_may_be_one_that_was_missed() -> None:
    ordered = settled(3)
    assert ordered.take(0, publication(9)) == []
    assert links(ordered.give_up()) == [(9, 8)]


def test_another_epoch_begins_anew() -> None:
    ordered = settled(900)
    ordered.forget()
    assert ordered.settle(0, 0) == []
    assert links(ordered.take(0, publication(2))) == [(2, 0)]


@given(st.permutations(range(1, 12)), st.lists(st.integers(1, 11)))
def test_whatever_the_order_of_arrival_each_is_handed_over_once_in_order(order: list[int], again: list[int]) -> None:
    ordered = settled()
    found: list[Publication] = []
    for offset in (*order, *again):
        found += ordered.take(offset - 1, publication(offset))
    assert links(found) == [(offset, offset - 1) for offset in range(1, 12)]
