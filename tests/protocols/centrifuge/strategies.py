"""Messages of the Centrifuge protocol as Hypothesis draws them: every field of each, payloads as JSON texts."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.fields import Field, Kind, schema_of
from tidewire.protocols.centrifuge.messages import Command, Reply, raw

__all__ = ("commands", "message", "payloads", "replies")

M = TypeVar("M", bound=msgspec.Struct)

_texts = st.text(st.characters(codec="utf-8"), max_size=8)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | _texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)
payloads = _json.map(lambda value: raw(msgspec.json.encode(value)))
_SIGNED = {"limit": 31, "phase": 31, "type": 31}


def _value(field: Field, depth: int) -> st.SearchStrategy[Any]:
    kind = field.kind
    if kind is Kind.UINT32:
        return st.integers(0, 2**32 - 1)
    if kind is Kind.UINT64:
        return st.integers(0, 2**63 - 1)
    if kind is Kind.INT:
        bits = _SIGNED.get(field.name, 63)
        return st.integers(-(2**bits), 2**bits - 1)
    if kind is Kind.BOOL:
        return st.booleans()
    if kind is Kind.TEXT:
        return _texts
    if kind is Kind.BYTES:
        return payloads | st.just(m.EMPTY)
    if kind is Kind.TEXTS:
        return st.lists(_texts, max_size=3)
    if kind is Kind.TEXT_MAP:
        return st.dictionaries(_texts, _texts, max_size=3)
    assert field.cls is not None
    if kind is Kind.MESSAGE:
        return message(field.cls, depth - 1)
    if kind is Kind.MESSAGES:
        return st.lists(message(field.cls, depth - 1), max_size=2 if depth > 0 else 0)
    return st.dictionaries(_texts, message(field.cls, depth - 1), max_size=2 if depth > 0 else 0)


def message(cls: type[M], depth: int = 4) -> st.SearchStrategy[M]:
    """Return messages of a class."""
    schema = schema_of(cls)
    always, sometimes = {}, {}
    for field in schema.fields:
        if field.name in schema.required:
            always[field.name] = _value(field, depth)
        elif depth > 0 or field.cls is None:
            sometimes[field.name] = _value(field, depth)
    return st.fixed_dictionaries(always, optional=sometimes).map(lambda values: cls(**values))


commands = message(Command)
replies = message(Reply)
