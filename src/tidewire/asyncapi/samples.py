"""Examples of messages: those that a model gives, or the simplest that its schema allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidewire.asyncapi.schemas import REFERENCE, Mode, resolved
from tidewire.errors import CommandError
from tidewire.messages import Format
from tidewire.protocols.message_shape import Shape

__all__ = ("sample_of",)

_TEXTS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "ann@example.org",
    "uri": "https://example.org/",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
}


def sample_of(shape: Shape, schema: Mapping[str, Any], definitions: Mapping[str, Any], mode: Mode) -> Any:
    """Return an example that the type takes, or one that it publishes; `msgspec.UNSET` where none is found."""
    samples = [_sample(schema, definitions, ())]
    if mode == "serialization" and shape.adapter is not None:  # it may be read by other names
        read = shape.adapter.json_schema(ref_template=REFERENCE + "{model}")
        samples.append(_sample(read, read.get("$defs", {}), ()))
    for sample in samples:
        try:
            data, format_ = shape.check(msgspec.json.encode(sample), Format.JSON)
        except (CommandError, TypeError, ValueError):
            continue
        return msgspec.json.decode(data) if mode == "serialization" and format_ is Format.JSON else sample
    return msgspec.UNSET


def _sample(schema: Mapping[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """Return an example, UNSET for one that would hold itself: `within` are the definitions that it is a part of."""
    reference = schema.get("$ref", "")
    if reference in within:
        return msgspec.UNSET
    if reference:
        within = (*within, reference)
    schema = resolved(schema, definitions)
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("example", "const", "default"):
        if name in schema:
            return schema[name]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            found = (_sample(one, definitions, within) for one in schema[name])
            return next((one for one in found if one is not msgspec.UNSET), msgspec.UNSET)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" or "properties" in schema:
        fields = {name: _sample(one, definitions, within) for name, one in schema.get("properties", {}).items()}
        return {name: one for name, one in fields.items() if one is not msgspec.UNSET}
    if kind == "array":
        return _items(schema, definitions, within)
    return _scalar(kind, schema)


def _items(schema: Mapping[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]) -> list[Any]:
    items = schema.get("items", {})
    if isinstance(items, list):
        return [_sample(item, definitions, within) for item in items]
    sample = _sample(items, definitions, within)
    return [] if sample is msgspec.UNSET else [sample] * max(1, schema.get("minItems", 1))


def _scalar(kind: str | None, schema: Mapping[str, Any]) -> Any:
    if kind == "string":
        text = _TEXTS.get(schema.get("format", ""), "text")
        return text.ljust(schema.get("minLength", 0), "t")[: schema.get("maxLength", len(text) + 1_000)]
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else None)
        most = schema.get("maximum", schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else None)
        value = least if least is not None else most if most is not None and most < 1 else 1
        step = schema.get("multipleOf")
        return value if not step else -(-value // step) * step
    return {"boolean": True, "null": None}.get(kind or "", {} if kind is None else None)
