"""The text of a type in the error for a message that does not fit it: one line, as people write JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ("text_of",)

#: Characters of a text, and objects within objects of which it shows the fields; a type may contain itself.
_MOST, _DEEPEST = 400, 2
#: Stands for a list or a union within itself.
_AGAIN = {"type": "…"}


def text_of(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema as `{level: integer, message?: string}`: a question mark stands at what may be left out.

    Names of classes and their documentation are left out: they are the application's own.
    """
    text = _text(schema, schema.get("$defs", {}), 0)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def _text(schema: Any, known: Mapping[str, Any], depth: int) -> str:
    while isinstance(schema, Mapping) and "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        schema = known.get(name)
        if isinstance(schema, Mapping) and schema.get("type") != "object":  # those have a depth
            known = {**known, name: _AGAIN}
    if not isinstance(schema, Mapping):
        return "any value"
    if parts := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " | ".join(dict.fromkeys(_text(part, known, depth) for part in parts))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    kind = schema.get("type", "any value")
    if kind == "array":
        return _array(schema, known, depth)
    if kind == "object":
        return _object(schema, known, depth + 1)
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _array(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int) -> str:
    parts = [_text(part, known, depth) for part in schema.get("prefixItems", ())]
    items = schema.get("items", not parts)
    if items is not False:
        parts.append(f"{_text(items, known, depth)}, …")
    return f"[{', '.join(parts)}]"


def _object(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int) -> str:
    if depth > _DEEPEST:
        return "{…}"
    needed = schema.get("required", ())
    parts = [
        f"{name}{'' if name in needed else '?'}: {_text(part, known, depth)}"
        for name, part in schema.get("properties", {}).items()
    ]
    if schema.get("additionalProperties", not parts):
        parts.append("…" if parts else f"…: {_text(schema.get('additionalProperties'), known, depth)}")
    return f"{{{', '.join(parts)}}}"
