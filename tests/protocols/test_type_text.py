"""What an error says of the type that was expected: its fields, in whatever words the type is written."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from tidewire.errors import BadRequest
from tidewire.protocols.json_text import JsonDecoder


class Said(msgspec.Struct):
    """A secret of the application."""

    level: int
    message: str | None = None


class Joined(msgspec.Struct, tag="joined"):
    """One of two."""

    room: str


class Left(msgspec.Struct, tag="left"):
    """The other."""

    rooms: list[str]


class Order(BaseModel):
    """A model of pydantic, with one of its own within."""

    model_config = ConfigDict(extra="allow")

    number: int = Field(alias="orderId")
    kind: Literal["new", "old"] = "new"
    at: datetime | None = None
    parts: list[Order] = []


class Tree(msgspec.Struct):
    """A type within itself, several times."""

    left: Tree | None = None
    right: Tree | None = None


class Wide(msgspec.Struct):
    """A type with a long text."""

    word: Literal["a", "b" * 1_000]


Nested = TypeAliasType("Nested", "list[Nested] | str")
Tangled = TypeAliasType("Tangled", "dict[str, Tangled] | list[Tangled] | None")


class Document(BaseModel):
    """A list within itself, in a field."""

    body: Nested


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (Said, "{level: integer, message?: string | null}"),
        (Joined | Left, '{type: "joined", room: string} | {type: "left", rooms: [string, …]}'),
        (
            Order,
            '{orderId: integer, kind?: "new" | "old", at?: string | null, '
            'parts?: [{orderId: integer, kind?: "new" | "old", at?: string | null, parts?: [{…}, …], …}, …], …}',
        ),
        (
            Tree,
            "{left?: {left?: {…} | null, right?: {…} | null} | null, "
            "right?: {left?: {…} | null, right?: {…} | null} | null}",
        ),
        (tuple[int, str], "[integer, string]"),
        (dict[str, int], "{…: integer}"),
        (list[Any], "[any value, …]"),
        (Nested, "[…, …] | string"),
        (Tangled, "{…: …} | […, …] | null"),
        (Document, "{body: […, …] | string}"),
        (Wide, ('{word: "a" | "' + "b" * 1_000)[:400] + "…"),
    ],
)
def test_the_error_names_the_fields_that_are_expected(type_: Any, text: str) -> None:
    """It was the beginning of a JSON schema, with the name and the documentation of the class."""
    with pytest.raises(BadRequest) as raised:
        JsonDecoder(type_).decode(b"no json")
    assert str(raised.value).rpartition("; expected ")[2] == text
