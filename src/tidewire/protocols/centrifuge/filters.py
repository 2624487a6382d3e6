"""Filters by tags: which publications a subscriber wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

from tidewire.errors import BadRequest
from tidewire.protocols.centrifuge.messages import FilterNode

__all__ = ("Wanted", "compile_filter", "count_nodes")

#: Returns whether a publication with these tags is wanted.
Wanted = Callable[[Mapping[str, str]], bool]

_TEXT: dict[str, Callable[[str, str], bool]] = {
    "sw": str.startswith,
    "ew": str.endswith,
    "ct": str.__contains__,
}
_NUMBER: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "lt": Decimal.__lt__,
    "lte": Decimal.__le__,
    "gt": Decimal.__gt__,
    "gte": Decimal.__ge__,
}


def count_nodes(node: FilterNode) -> int:
    """Return how many conditions a filter has."""
    return 1 + sum(count_nodes(inner) for inner in node.nodes)


def compile_filter(node: FilterNode) -> Wanted:
    """Return a filter as a function; raises BadRequest for one that means nothing."""
    if not node.op:
        return _compare(node)
    parts = [compile_filter(inner) for inner in node.nodes]
    if node.op == "not" and len(parts) == 1:
        inner = parts[0]
        return lambda tags: not inner(tags)
    if node.op == "and" and parts:
        return lambda tags: all(part(tags) for part in parts)
    if node.op == "or" and parts:
        return lambda tags: any(part(tags) for part in parts)
    raise BadRequest(f"a filter with op {node.op!r} over {len(parts)} nodes means nothing; write and, or, not")


def _compare(node: FilterNode) -> Wanted:
    key, value, values = node.key, node.val, frozenset(node.vals)
    if not key:
        raise BadRequest("a filter compares a tag without a key; name it")
    plain: dict[str, Wanted] = {
        "eq": lambda tags: tags.get(key) == value,
        "neq": lambda tags: tags.get(key) != value,
        "in": lambda tags: tags.get(key) in values,
        "nin": lambda tags: tags.get(key) not in values,
        "ex": lambda tags: key in tags,
        "nex": lambda tags: key not in tags,
    }
    if node.cmp in plain:
        return plain[node.cmp]
    if node.cmp in _TEXT:
        holds = _TEXT[node.cmp]
        return lambda tags: key in tags and holds(tags[key], value)
    if node.cmp in _NUMBER:
        return _compare_numbers(key, value, _NUMBER[node.cmp])
    raise BadRequest(f"a filter compares by {node.cmp!r}; write one of eq neq in nin ex nex sw ew ct lt lte gt gte")


def _compare_numbers(key: str, value: str, holds: Callable[[Decimal, Decimal], bool]) -> Wanted:
    bound = _as_number(value)
    if bound is None:
        raise BadRequest(f"a filter compares {key!r} with {value!r}, which is no number")

    def wanted(tags: Mapping[str, str]) -> bool:
        found = _as_number(tags.get(key, ""))
        return found is not None and holds(found, bound)

    return wanted


def _as_number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
