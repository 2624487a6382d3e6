"""The types of messages: the declaration of an application, by which messages are read, checked and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
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
from tidewire.protocols.json_text import JsonDecoder
from tidewire.protocols.payload import check_numbers, encode_json, encode_payload
from tidewire.protocols.typed_dicts import portable

__all__ = ("Shape", "checked_announcement", "checked_payload", "is_message_type", "members_of")


class Shape:
    """One type of messages: a pydantic model, dataclass, TypedDict or msgspec struct, or a union of such.

    Structs are read by msgspec, anything else by pydantic, which converts values without loss ("5" for a number). A
    message is published as its type writes it: with its defaults, and without fields that the type does not have.
    Raises ConfigurationError for a type that neither library knows.
    """

    __slots__ = ("_adapter", "_decoder", "_models", "type")

    def __init__(self, type_: Any, *, depth: int = Limits().json_depth) -> None:
        self.type = type_ = portable(type_)
        inner = members_of(type_)
        self._models = tuple(
            one for one in inner if isinstance(one, type) and (issubclass(one, BaseModel) or is_pydantic_dataclass(one))
        )
        is_struct = any(isinstance(one, type) and issubclass(one, msgspec.Struct) for one in inner)
        self._adapter: TypeAdapter[Any] | None = None
        try:
            if isinstance(type_, str):
                raise TypeError("it is a string")
            if not is_struct:
                self._adapter = TypeAdapter(type_)
            self._decoder = JsonDecoder(type_, depth=depth, adapter=self._adapter)
        except (TypeError, KeyError, PydanticUserError, NameError) as error:
            raise ConfigurationError(
                f"{type_!r} is no type of messages ({str(error).splitlines()[0]}); write a pydantic model, a "
                "dataclass, a TypedDict or a msgspec struct, or a union of one kind of them"
            ) from None

    def decode(self, data: bytes) -> Any:
        """Return the value of a JSON text; raises InvalidMessage."""
        try:
            return self._decoder.decode(data)
        except InvalidMessage:
            raise
        except BadRequest as error:
            raise InvalidMessage(str(error), (Problem("json_invalid", ("body",), str(error)),)) from None
        except SystemExit as error:  # of a validator: a message ends no server
            raise RuntimeError(f"a validator of {self.type!r} raised SystemExit({error})") from error

    def read(self, data: bytes, format_: Format) -> Any:
        """Return the value of a message; raises InvalidMessage."""
        if format_ is not Format.JSON:
            try:
                return self._as_itself(data.decode() if format_ is Format.TEXT else data)
            except (ValidationError, msgspec.ValidationError, UnicodeDecodeError):
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
            self._check_nulls(encoded, self._adapter.dump_python(value, by_alias=True, warnings=False))
        return encoded, Format.JSON

    def _check_nulls(self, encoded: bytes, value: Any) -> None:
        """Raise InvalidMessage for a number that JSON does not have, if the type has no null, which stands for it."""
        place = _endless_in(value)
        if place is None:
            return
        try:
            self.decode(encoded)
        except InvalidMessage:
            problem = Problem("finite_number", ("body", *place), "Input should be a finite number")
            raise InvalidMessage(f"{'.'.join(map(str, problem.loc))}: {problem.msg}", (problem,)) from None

    def check(self, data: bytes, format_: Format) -> tuple[bytes, Format]:
        """Return a message as it is published; raises as `read`."""
        return self.write(self.read(data, format_))

    def encode(self, data: Any) -> tuple[bytes, Format]:
        """Return the message of an application, encoded; raises as `read`, and BadRequest for what JSON has not.

        A model or dataclass of pydantic was checked when it was made; others and structs are checked here.
        """
        try:
            return self.write(data) if isinstance(data, self._models) else self.check(*encode_payload(data))
        except PydanticSerializationError as error:
            raise BadRequest(f"a value of type {type(data).__name__} cannot be sent as JSON: {error}") from None

    @property
    def adapter(self) -> TypeAdapter[Any] | None:
        """The type as pydantic takes it; None for structs of msgspec."""
        return self._adapter


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
