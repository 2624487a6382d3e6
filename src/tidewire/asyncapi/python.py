"""Python for `tidewire.client`, from the document: models of messages, and a client that knows them."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Container, Mapping
from typing import Any

from pydantic import BaseModel

from tidewire.asyncapi.contents import CallContents, ChannelContents, contents

__all__ = ("python",)

_SCALARS = {"string": "str", "number": "float", "integer": "int", "boolean": "bool", "null": "None"}
_FORMATS = {"date-time": "datetime", "date": "date", "uuid": "UUID"}
_HEAD = '''"""Written by `tidewire types`; change the models of the application, and write it again."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from tidewire.client import Client, TypedChannel, given

__all__ = ({names})
'''
#: The names of the module, which no type has, too; nor a field, which hides what its annotation names.
_TAKEN = {"BaseModel", "Channels", "Client", "ConfigDict", "Field", "TypeAliasType", "TypedChannel", "given"}
_TAKEN |= {"Any", "Literal", "UUID", "annotations", "bool", "date", "datetime", "dict", "float", "int", "list"}
_TAKEN |= {"str", "tuple"}


def python(document: Mapping[str, Any]) -> str:
    """Return a module: a model for each schema, and `Channels`, which a `Client` is given to."""
    found = contents(document)
    definitions = [_definition(name, schema, found.schemas) for name, schema in found.schemas.items()]
    methods = [_channel(channel) for channel in found.channels] + [_call(call) for call in found.calls]
    names = ["Channels", *(_identifier(name) for name in found.schemas)]
    body = '''class Channels:
    """The channels and calls of the application, for one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
'''
    head = _HEAD.replace("{names}", "".join(f'"{name}", ' for name in sorted(names)).rstrip())
    return "\n\n".join([head, *definitions, body.rstrip() + "\n" + "".join(f"\n{method}" for method in methods)])


def _definition(name: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "properties" not in schema:
        return f"{_identifier(name)} = TypeAliasType({_identifier(name)!r}, {_type(schema)!r})\n"
    text = _doc(schema) or f"The type {name}."
    taken = {*_TAKEN, *map(_identifier, schemas), *dir(BaseModel), "self"}
    fields = ""
    for field, inner in schema["properties"].items():
        attribute = _attribute(field, taken)
        taken.add(attribute)
        fields += _field(field, attribute, inner, schema)
    settings = ["populate_by_name=True"] if "validation_alias=" in fields else []
    settings += ['extra="allow"'] if schema.get("additionalProperties") else []
    settings += ["protected_namespaces=()"] if re.search(r"^    model_", fields, re.MULTILINE) else []
    if settings:
        fields = f"    model_config = ConfigDict({', '.join(settings)})\n\n{fields}"
    return f'class {_identifier(name)}(BaseModel):\n    """{text}"""\n' + (f"\n{fields}" if fields else "")


def _attribute(name: str, taken: set[str]) -> str:
    attribute = re.sub(r"\W", "_", name)
    if not attribute.isidentifier() or attribute[0] == "_":
        attribute = f"f_{attribute.lstrip('_')}"
    while attribute in taken or keyword.iskeyword(attribute):
        attribute += "_"
    return attribute


def _field(name: str, attribute: str, schema: Mapping[str, Any], owner: Mapping[str, Any]) -> str:
    type_, is_required = _type(schema), name in owner.get("required", ())
    default = repr(schema["const"]) if "const" in schema else None
    if default is None and not is_required:
        value = schema.get("default")
        is_plain = type(value).__name__ in type_.split(" | ") and schema.get("format") != "password"
        default = repr(value) if is_plain else "None"
        if default == "None" and "None" not in type_.split(" | "):
            type_ = f"{type_} | None"
    if attribute == name:
        return f"    {name}: {type_}" + ("" if default is None else f" = {default}") + "\n"
    aliases = f"validation_alias={name!r}, serialization_alias={name!r}"
    given = "" if default is None else f"default={default}, "
    return f"    {attribute}: {type_} = Field({given}{aliases})\n"


def _channel(channel: ChannelContents) -> str:
    kinds = {"int": "int", "float": "float"}
    parameters = "".join(f", {name}: {kinds.get(kind, 'str')}" for name, kind in channel.parameters.items())
    shown, sent = _union(channel.published), _union(channel.accepted)
    address = re.sub(r"\{(\w+)\}", r"{\1}", channel.address)
    prefix = "f" if channel.parameters else ""
    return (
        f"    def {_method(channel.id)}(self{parameters}) -> TypedChannel[{shown}, {sent}]:\n"
        f'        """Return the channel {channel.address}."""\n'
        f"        return TypedChannel(self.client, {prefix}{address!r}, {shown})\n"
    )


def _call(call: CallContents) -> str:
    takes, returns = _type(call.takes), _type(call.returns)
    return (
        f"    async def {_method(call.name)}(self, data: {takes}) -> {returns}:\n"
        f'        """Call {call.name}."""\n'
        f"        result: {returns} = await self.client.rpc({call.name!r}, given(data), {returns})\n"
        f"        return result\n"
    )


def _doc(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split()).replace("\\", "").replace('"""', "'''")


def _type(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "Any"
    if "$ref" in schema:
        return _identifier(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _union(schema[word])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": one}) for one in kind)
    if kind == "array":
        items = schema.get("items", {})
        return f"tuple[{', '.join(map(_type, items))}]" if isinstance(items, list) else f"list[{_type(items)}]"
    if kind == "object":
        return f"dict[str, {_type(schema.get('additionalProperties', {}))}]"
    if kind == "string":
        return _FORMATS.get(schema.get("format", ""), "str")
    return _SCALARS.get(kind or "", "Any")


def _union(schemas: Any) -> str:
    types = list(dict.fromkeys(map(_type, schemas)))
    return "Any" if "Any" in types else " | ".join(types)


def _identifier(name: str, taken: Container[str] = _TAKEN | set(dir(builtins))) -> str:
    cleaned = re.sub(r"\W", "_", name)
    if cleaned in taken or keyword.iskeyword(cleaned):
        return f"{cleaned}_"
    return f"_{cleaned}" if cleaned[:1].isdigit() else cleaned


def _method(name: str) -> str:
    cleaned = _identifier(name, _TAKEN)
    return f"{cleaned}_" if cleaned in ("client", "self") else cleaned
