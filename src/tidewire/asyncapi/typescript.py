"""TypeScript for browsers, from the document: the types of messages, and clients that know them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidewire.asyncapi.contents import Contents, contents

__all__ = ("typescript",)

_RUNTIME = Path(__file__).parent / "ui" / "typed.ts"
_NAME = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
#: Names of the module and of what it uses; another type of such a name would take its place.
_TAKEN = {"Array", "Calls", "CentrifugeLike", "Channels", "Omit", "Parameters", "Promise", "Record", "ReturnType"}
_TAKEN |= {"String", "TidewireLike", "TypedPublication", "TypedSubscription"}
#: The words of the language, which no type is called.
_WORDS = """any bigint boolean case catch const debugger default delete do enum export extends false function implements
instanceof interface let never new null number object package private protected public static string super switch symbol
this throw true typeof undefined unknown var void"""
_TAKEN |= set(_WORDS.split())
_SCALARS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def typescript(document: Mapping[str, Any]) -> str:
    """Return a module without imports: types, and `typedClient` for tidewire.js and the package `centrifuge`."""
    found = contents(document)
    parts = [_HEAD]
    parts += [_definition(name, schema) for name, schema in found.schemas.items()]
    parts.append(_tables(found))
    parts.append(_RUNTIME.read_text())
    return "\n".join(parts)


_HEAD = "// Written by `tidewire types`; change the models of the application, and write it again.\n"


def _tables(found: Contents) -> str:
    channels = "".join(
        f"  {_key(channel.id)}: {{ parameters: {_parameters(channel.parameters)}; "
        f"published: {_union(channel.published)}; accepted: {_union(channel.accepted)} }};\n"
        for channel in found.channels
    )
    calls = "".join(
        f"  {_key(call.name)}: {{ takes: {_union([call.takes])}; returns: {_union([call.returns])} }};\n"
        for call in found.calls
    )
    addresses = "".join(f"  {_key(channel.id)}: {json.dumps(channel.address)},\n" for channel in found.channels)
    return (
        "/** The channels: their parameters, what subscribers are shown, what clients publish. */\n"
        f"export interface Channels {{\n{channels}}}\n\n"
        "/** The calls: what they take, and what they return. */\n"
        f"export interface Calls {{\n{calls}}}\n\n"
        f"const addresses: Record<keyof Channels, string> = {{\n{addresses}}};\n"
    )


def _parameters(parameters: Mapping[str, str]) -> str:
    kinds = {"int": "number", "float": "number"}
    fields = "; ".join(f"{_key(name)}: {kinds.get(kind, 'string')}" for name, kind in parameters.items())
    return f"{{ {fields} }}" if fields else "Record<string, never>"


def _definition(name: str, schema: Mapping[str, Any]) -> str:
    name = _identifier(name)
    text = _comment(schema)
    if "properties" in schema and not any(kind in schema for kind in ("anyOf", "oneOf", "allOf")):
        fields = "".join(
            f"{_comment(inner, '  ')}  {_field(field, schema)}: {_type(inner)};\n"
            for field, inner in schema["properties"].items()
        )
        fields += "  [name: string]: unknown;\n" if schema.get("additionalProperties") else ""
        return f"{text}export interface {name} {{\n{fields}}}\n"
    return f"{text}export type {name} = {_type(schema)};\n"


def _field(name: str, schema: Mapping[str, Any]) -> str:
    return _key(name) + ("" if name in schema.get("required", ()) else "?")


def _comment(schema: Mapping[str, Any], indent: str = "") -> str:
    text = " ".join(str(schema.get("description", "")).split()).replace("*/", "* /")
    return f"{indent}/** {text} */\n" if text else ""


def _type(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "unknown" if schema is not False else "never"
    if "$ref" in schema:
        return _identifier(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _union(schema[word])
    if "allOf" in schema:
        return " & ".join(f"({_type(inner)})" for inner in schema["allOf"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": one}) for one in kind)
    if kind == "array":
        return _array(schema)
    if kind == "object" or "properties" in schema:
        return _object(schema)
    return _SCALARS.get(kind or "", "unknown")


def _array(schema: Mapping[str, Any]) -> str:
    items = schema.get("items", {})
    if isinstance(items, list):
        return f"[{', '.join(map(_type, items))}]"
    return f"Array<{_type(items)}>"


def _object(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties", {})
    if properties:
        fields = "; ".join(f"{_field(name, schema)}: {_type(inner)}" for name, inner in properties.items())
        return f"{{ {fields} }}"
    return (
        f"{{ [name: string]: {_type(schema.get('additionalProperties', {}))} }}"  # unlike a Record, it may hold itself
    )


def _union(schemas: Any) -> str:
    return " | ".join(dict.fromkeys(map(_type, schemas)))


def _key(name: str) -> str:
    return name if _NAME.fullmatch(name) else json.dumps(name)


def _identifier(name: str) -> str:
    cleaned = re.sub(r"[^\w$]", "_", name, flags=re.ASCII)
    if cleaned in _TAKEN:
        return f"{cleaned}_"
    return cleaned if not cleaned[:1].isdigit() else f"_{cleaned}"
