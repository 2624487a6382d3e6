"""The schemas of messages, each under one name, as AsyncAPI writes them (JSON Schema draft 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from tidewire.protocols.message_shape import Shape

__all__ = ("REFERENCE", "Mode", "Schemas", "resolved")

#: The beginning of a reference to a definition.
REFERENCE = "#/components/schemas/"
#: The form of a type: as it is sent, without fields at their defaults; or as it is published, with them.
Mode = Literal["validation", "serialization"]


class _Published(GenerateJsonSchema):
    """Makes schemas in which a published message has the fields that a default fills, too."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization" and field["type"] in ("model-field", "dataclass-field"):
            return not field.get("serialization_exclude") and not field.get("init_only")
        return super().field_is_required(field, total)


class Schemas:
    """The schemas of many types; a type that two of them share has one definition."""

    def __init__(self, wanted: Iterable[tuple[Shape, Mode]]) -> None:
        adapters: list[tuple[int, Mode, TypeAdapter[Any]]] = []
        structs: dict[int, Any] = {}
        for shape, mode in wanted:
            if shape.adapter is None:
                structs[id(shape)] = shape.type
            else:
                adapters.append((id(shape), mode, shape.adapter))
        found, document = TypeAdapter.json_schemas(
            adapters, ref_template=REFERENCE + "{model}", schema_generator=_Published
        )
        definitions = document.get("$defs", {})
        names = {name: _plain(name) for name in definitions if name != _plain(name)}
        self._found: dict[tuple[int, Mode], dict[str, Any]] = {
            key: _renamed(_drafted(value), names) for key, value in found.items()
        }
        #: All definitions, by their names.
        self.definitions: dict[str, Any] = {
            names.get(name, name): _renamed(_drafted(schema), names) for name, schema in definitions.items()
        }
        _require_tags([*self._found.values(), *self.definitions.values()], self.definitions)
        if structs:
            self._add_structs(structs)

    def _add_structs(self, structs: Mapping[int, Any]) -> None:
        taken = set(self.definitions)
        schemas, definitions = msgspec.json.schema_components(structs.values(), ref_template=REFERENCE + "{name}")
        own = {name: f"{name}Struct" for name in definitions if name in taken}
        for key, schema in zip(structs, schemas, strict=True):
            renamed = _renamed(_drafted(schema), own)
            self._found[key, "validation"] = self._found[key, "serialization"] = renamed
        for name, schema in definitions.items():
            self.definitions[own.get(name, name)] = _renamed(_drafted(schema), own)

    def of(self, shape: Shape, mode: Mode) -> dict[str, Any]:
        """Return the schema of a type."""
        return self._found[id(shape), mode]

    def name_of(self, shape: Shape, mode: Mode) -> str:
        """Return the name of a type's definition; "" for one that has none."""
        reference = self.of(shape, mode).get("$ref", "")
        return str(reference).removeprefix(REFERENCE)


def resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that a reference names, or the schema itself."""
    while isinstance(schema.get("$ref"), str):
        schema = definitions[schema["$ref"].removeprefix(REFERENCE)]
    return schema


def _require_tags(value: Any, definitions: Mapping[str, Any]) -> None:
    """Require the field by which pydantic tells the types of a union apart: its default counts elsewhere only."""
    if isinstance(value, list):
        for one in value:
            _require_tags(one, definitions)
    elif isinstance(value, dict):
        _require_tags(list(value.values()), definitions)
        tag = value.get("discriminator")
        for one in value.get("oneOf", ()) if isinstance(tag, str) else ():
            found: Any = resolved(one, definitions)
            required = found.get("required", [])
            if tag in found.get("properties", {}) and tag not in required:
                found["required"] = [*required, tag]


def _drafted(value: Any) -> Any:
    """Return a schema of JSON Schema 2020-12 and OpenAPI as AsyncAPI has it."""
    if isinstance(value, list):
        return [_drafted(item) for item in value]
    if not isinstance(value, dict):
        return value
    drafted = {name: _drafted(inner) for name, inner in value.items() if not _is_endless(inner)}
    if isinstance(drafted.get("enum"), list):  # an enumeration and a literal may have one value
        drafted["enum"] = list({msgspec.json.encode(one): one for one in drafted["enum"]}.values())
    discriminator = drafted.get("discriminator")
    if isinstance(discriminator, dict) and "propertyName" in discriminator:
        drafted["discriminator"] = discriminator["propertyName"]
    if isinstance(drafted.get("prefixItems"), list):
        drafted["items"] = drafted.pop("prefixItems")
        drafted.pop("minItems", None)
    return drafted


def _is_endless(value: Any) -> bool:
    """Return whether a default is infinite or no number, which JSON does not have."""
    return isinstance(value, float) and not math.isfinite(value)


def _plain(name: str) -> str:
    """Return the name of a definition: a published type keeps its own name."""
    return name.removesuffix("-Output").replace("-Input", "Input")


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a schema in which references have other names."""
    if not names:
        return value
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {name: _renamed(inner, names) for name, inner in value.items()}
    reference = renamed.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix(REFERENCE)
        renamed["$ref"] = REFERENCE + names.get(name, name)
    return renamed
