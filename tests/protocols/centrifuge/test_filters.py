"""Filters by tags: every comparison, and what means nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.errors import BadRequest
from tidewire.protocols.centrifuge.filters import compile_filter, count_nodes
from tidewire.protocols.centrifuge.messages import FilterNode

TAGS = {"a": "1", "name": "blueberry", "price": "12.50", "empty": "", "big": "90071992547409931"}


@pytest.mark.parametrize(
    ("cmp", "key", "val", "wanted"),
    [
        ("eq", "a", "1", True),
        ("eq", "a", "2", False),
        ("eq", "missing", "", False),
        ("neq", "a", "2", True),
        ("neq", "a", "1", False),
        ("neq", "missing", "1", True),
        ("ex", "empty", "", True),
        ("ex", "missing", "", False),
        ("nex", "missing", "", True),
        ("nex", "a", "", False),
        ("sw", "name", "blue", True),
        ("sw", "name", "berry", False),
        ("sw", "missing", "", False),
        ("ew", "name", "berry", True),
        ("ct", "name", "eber", True),
        ("ct", "name", "x", False),
        ("lt", "price", "12.51", True),
        ("lt", "price", "12.5", False),
        ("lte", "price", "12.5", True),
        ("gt", "price", "9", True),
        ("gt", "name", "9", False),
        ("gt", "missing", "9", False),
        ("gte", "price", "12.500", True),
        ("gt", "big", "90071992547409930", True),
    ],
)
def test_a_comparison(cmp: str, key: str, val: str, wanted: bool) -> None:
    assert compile_filter(FilterNode(key=key, cmp=cmp, val=val))(TAGS) is wanted


@pytest.mark.parametrize(
    ("cmp", "key", "vals", "wanted"),
    [
        ("in", "a", ["1", "2"], True),
        ("in", "missing", [""], False),
        ("nin", "a", ["1"], False),
        ("nin", "missing", ["1"], True),
    ],
)
def test_a_choice(cmp: str, key: str, vals: list[str], wanted: bool) -> None:
    assert compile_filter(FilterNode(key=key, cmp=cmp, vals=vals))(TAGS) is wanted


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_nodes_are_joined(values: list[bool]) -> None:
    nodes = [FilterNode(key="a" if value else "missing", cmp="ex") for value in values]
    assert compile_filter(FilterNode(op="and", nodes=nodes))(TAGS) is all(values)
    assert compile_filter(FilterNode(op="or", nodes=nodes))(TAGS) is any(values)
    assert compile_filter(FilterNode(op="not", nodes=nodes[:1]))(TAGS) is not values[0]
    assert count_nodes(FilterNode(op="and", nodes=nodes)) == len(values) + 1


LEAF = FilterNode(key="a", cmp="ex")


@pytest.mark.parametrize(
    "node",
    [
        FilterNode(),
        FilterNode(key="a"),
        FilterNode(cmp="ex"),
        FilterNode(key="a", cmp="like", val="x"),
        FilterNode(key="a", cmp="lt", val="x"),
        FilterNode(key="a", cmp="lt", val="NaN"),
        FilterNode(op="and"),
        FilterNode(op="or"),
        FilterNode(op="not", nodes=[LEAF, LEAF]),
        FilterNode(op="xor", nodes=[LEAF]),
        FilterNode(op="and", nodes=[LEAF, FilterNode()]),
    ],
)
def test_what_means_nothing_is_refused(node: FilterNode) -> None:
    with pytest.raises(BadRequest):
        compile_filter(node)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.text(max_size=5)))
def test_any_tags_can_be_compared(tags: Mapping[str, str]) -> None:
    for cmp in ("eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "lt", "lte", "gt", "gte"):
        assert compile_filter(FilterNode(key="a", cmp=cmp, val="1"))(tags) in (True, False)
