"""The types of messages: the declaration of an application, by which messages are read, checked and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, is_typeddict

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from tidewire.errors import BadRequest, ConfigurationError, InvalidMessage, Problem
from tidewire.limits import Limits
from tidewire.messages import Announcement, Format
from tidewire.protocols.json_text import JsonDecoder, adapter_of
from tidewire.protocols.payload import check_numbers, encode_json, encode_payload
from tidewire.protocols.problems import refused_at
from tidewire.protocols.typed_dicts import portable

__all__ = ("Shape", "checked_announcement", "checked_payload", "is_message_type", "members_of")

#: Characters of a validator's error that are shown.
_SHOWN = 200


class Shape:
    """One type of messages: a pydantic model, dataclass, TypedDict or msgspec struct, or a union of such.

    Structs are read by msgspec, anything else by pydantic, which converts values without loss ("5" for a number). A
    message is published as its type writes it: with its defaults, and without fields that the type does not have.
    Raises ConfigurationError for a type that neither library knows.
    """

    __slots__ = ("_adapter", "_decoder", "_models", "type")

    def __init__(self, type_: Any, *, depth: int = Limits().json_depth) -> None:
        self.type = type_ = portable(type_)
        self._models = tuple(one for one in members_of(type_) if _is_checked(one))
        self._adapter: TypeAdapter[Any] | None = None
        try:
            if isinstance(type_, str):
                raise TypeError("it is a string")
            self._adapter = adapter_of(type_)
            self._decoder = JsonDecoder(type_, depth=depth, adapter=self._adapter)
        except (TypeError, KeyError, PydanticUserError, NameError) as error:
            raise ConfigurationError(
                f"{type_!r} is no type of messages ({str(error).splitlines()[0]}); write a pydantic model, a "
                "dataclass, a TypedDict or a msgspec struct, or a union of one kind of them"
            ) from None

    def complete(self) -> None:
        """Look for what was not defined when the type was declared; raises ConfigurationError where it is nowhere."""
        if self._adapter is not None:
            try:
                self._adapter.rebuild(raise_errors=True)
            except (PydanticUserError, NameError) as error:
                raise ConfigurationError(
                    f"{self.type!r} is no type of messages yet ({str(error).splitlines()[0]}); import what it names, "
                    "or mend the name"
                ) from None

    def decode(self, data: bytes) -> Any:
        """Return the value of a JSON text; raises InvalidMessage."""
        try:
            return self._decoder.decode(data)
        except InvalidMessage:
            raise
        except BadRequest as error:
            raise InvalidMessage(str(error), (Problem("json_invalid", ("body",), str(error)),)) from None
        except SystemExit as error:
            raise self._ended(error) from error

    def _ended(self, error: SystemExit) -> RuntimeError:
        """Return the error for a validator that ends programs: a message ends no server."""
        return RuntimeError(f"a validator of {self.type!r} raised SystemExit({error})")

    def read(self, data: bytes, format_: Format) -> Any:
        """Return the value of a message; raises InvalidMessage."""
        if format_ is not Format.JSON:
            try:
                return self._as_itself(data.decode() if format_ is Format.TEXT else data)
            except (Exception, SystemExit):
                pass  # a client of a protocol without types of its own sends JSON as text, or as bytes
        return self.decode(data)

    def _as_itself(self, value: str | bytes) -> Any:
        if self._adapter is None:
            return msgspec.convert(value, self.type)
        return self._adapter.validate_python(value, strict=True)

    def write(self, value: Any) -> tuple[bytes, Format]:
        """Return a value of the type as it is published."""
        if isinstance(value, str | bytes):
            return encode_payload(value)
        if self._adapter is None:
            return encode_json(value), Format.JSON
        encoded = self._adapter.dump_json(value, by_alias=True, warnings=False)
        check_numbers(encoded, value)
        if b"null" in encoded:
            self._check_nulls(self._adapter, value)
        return encoded, Format.JSON

    def _check_nulls(self, adapter: TypeAdapter[Any], value: Any) -> None:
        """Raise InvalidMessage for a number that JSON does not have, if the type has no null, which stands for it."""
        place = _endless_in(adapter.dump_python(value, by_alias=True, warnings=False))
        if place is not None and not _has_null(adapter.json_schema(mode="serialization"), place):
            raise refused_at(place, "finite_number", "Input should be a finite number")

    def check(self, data: bytes, format_: Format) -> tuple[bytes, Format]:
        """Return a message as it is published; raises as `read`."""
        return self.write(self.read(data, format_))

    def encode(self, data: Any) -> tuple[bytes, Format]:
        """Return the message of an application, encoded; raises InvalidMessage, and BadRequest for what JSON has not.

        A model or dataclass of pydantic was checked when it was made; others and structs are checked here.
        """
        try:
            return self.write(data if isinstance(data, self._models) else self._checked(data))
        except BadRequest:
            raise
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise BadRequest(f"a value of type {type(data).__name__} cannot be sent as JSON: {error}") from None
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"[:_SHOWN]
            raise BadRequest(
                f"a value of type {type(data).__name__} cannot be sent: {self.type!r} raised {raised}"
            ) from error

    def _checked(self, data: Any) -> Any:
        """Return a value of the type for one that Python has, or for one that is as JSON has it."""
        if self._adapter is None or isinstance(data, str | bytes | bytearray | memoryview):
            return self.read(*encode_payload(data))
        try:
            return self._adapter.validate_python(_opened(data))
        except SystemExit as error:
            raise self._ended(error) from error
        except Exception as error:  # also of a validator that takes what JSON has, and nothing else
            wrong = error
        try:
            return self.read(*encode_payload(data))
        except Exception as error:
            if isinstance(wrong, ValidationError):
                raise self._decoder.refusal(wrong) from None
            if isinstance(error, BadRequest):
                raise error from wrong
            raise wrong from wrong.__cause__

    @property
    def adapter(self) -> TypeAdapter[Any] | None:
        """The type as pydantic takes it; None for structs of msgspec."""
        return self._adapter


def _is_checked(type_: Any) -> bool:
    """Return whether the values of a type were checked when they were made."""
    return isinstance(type_, type) and (issubclass(type_, BaseModel) or is_pydantic_dataclass(type_))


def _opened(value: Any) -> Any:
    """Return a value in which dataclasses and structs are their fields, which are checked; models are as they are."""
    if isinstance(value, Mapping):
        return {key: _opened(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_opened, value)) if isinstance(value, list) else tuple(map(_opened, value))
    if isinstance(value, msgspec.Struct):
        return msgspec.json.decode(encode_json(value))
    if is_dataclass(value) and not isinstance(value, type) and not _is_checked(type(value)):
        return {field.name: _opened(getattr(value, field.name)) for field in fields(value)}
    return value


def _endless_in(value: Any) -> tuple[str | int, ...] | None:
    """Return the place of an infinite number, or of one that is none; None: there is none."""
    if isinstance(value, float):
        return None if isfinite(value) else ()
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        items = enumerate(value)
    for step, inner in items:
        place = _endless_in(inner)
        if place is not None:
            return (step if isinstance(step, int) else str(step), *place)
    return None


def _has_null(schema: Any, place: Sequence[str | int], definitions: Mapping[str, Any] | None = None) -> bool:
    """Return whether a schema allows null in a place; True where it does not say so."""
    if not isinstance(schema, Mapping):
        return True
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        return _has_null(definitions[schema["$ref"].rpartition("/")[2]], place, definitions)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return any(_has_null(one, place, definitions) for one in choices)
    if not place:
        return "type" not in schema or schema["type"] == "null"
    step, *rest = place
    if isinstance(step, int) and step < len(schema.get("prefixItems", ())):
        inner = schema["prefixItems"][step]
    else:
        inner = schema.get("properties", {}).get(str(step), schema.get("additionalProperties", schema.get("items")))
    return schema.get("type") in (None, "object", "array") and _has_null(inner, rest, definitions)


def is_message_type(type_: Any) -> bool:
    """Return whether a type is that of a message by itself: a model, dataclass, TypedDict or struct, or a union."""
    inner = members_of(type_)
    return bool(inner) and all(
        is_typeddict(one)
        or is_dataclass(one)
        or (isinstance(one, type) and issubclass(one, BaseModel | msgspec.Struct))
        for one in inner
    )


def members_of(type_: Any) -> tuple[Any, ...]:
    """Return the types that a union holds, or the type alone; without None."""
    if get_origin(type_) is Annotated:
        return members_of(get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return tuple(inner for one in get_args(type_) if one is not type(None) for inner in members_of(one))
    return (type_,)


def checked_payload(shape: Shape | None, data: Any) -> tuple[bytes, Format]:
    """Return the message of an application in a channel of a type, or of none; raises BadRequest, InvalidMessage."""
    return encode_payload(data) if shape is None else shape.encode(data)


def checked_announcement(shape: Shape | None, data: Any) -> Announcement | None:
    """Return the announcement of joining or leaving, None for None; raises as `checked_payload`."""
    return None if data is None else Announcement(*checked_payload(shape, data))
