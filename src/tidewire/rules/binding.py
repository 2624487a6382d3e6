"""How the functions of an application are given what they ask for, by the names and types of their parameters."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from tidewire.errors import BadRequest, ConfigurationError, PermissionDenied
from tidewire.rules.base import Caller, Identity

__all__ = ("Bound", "NoMatch")

_DATA_NAMES = frozenset({"data", "args", "params"})

#: Finds the value of one parameter: from the call, the texts of the pattern, and the data that was sent.
Source = Callable[[Caller, dict[str, str], bytes], Any]


class NoMatch(Exception):
    """Raised when a parameter of a channel's name is not of the type that the rule wants."""


class Bound:
    """A function with the sources of its parameters; one that is no coroutine function runs in a thread, as in FastAPI.

    Raises ConfigurationError for a parameter that nothing can be given for.
    """

    __slots__ = ("_function", "_is_async", "_sources", "takes_data")

    def __init__(self, function: Callable[..., Any], names: Sequence[str] = (), *, takes_data: bool = False) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        self.takes_data = False
        self._sources: dict[str, Source] = {}
        hints = _hints(function)
        for parameter in inspect.signature(function).parameters.values():
            type_ = hints.get(parameter.name, Any)
            self._sources[parameter.name] = self._source(parameter, type_, names, takes_data)
        missing = [name for name in names if name not in self._sources]
        if missing:
            raise ConfigurationError(
                f"{_called(function)} takes no parameter {missing[0]!r}, which its pattern has; add it"
            )

    def _source(self, parameter: inspect.Parameter, type_: Any, names: Sequence[str], takes_data: bool) -> Source:
        name = parameter.name
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(f"{_called(self._function)}: parameter {name!r} must be one that is given by name")
        if name in names:
            return _from_pattern(name, type_)
        if type_ is Caller:
            return lambda caller, _, __: caller
        if type_ is Identity:
            return lambda caller, _, __: caller.identity
        if name == "user" and type_ in (str, Any):
            return lambda caller, _, __: caller.identity.user
        if takes_data and not self.takes_data and name != "user" and (name in _DATA_NAMES or _is_model(type_)):
            self.takes_data = True
            return _from_data(type_)
        if name in ("user", "context") or isinstance(type_, type):
            return _from_context(name, type_, parameter.default)
        raise ConfigurationError(
            f"{_called(self._function)}: nothing is known for parameter {name!r}; take a parameter of the pattern, "
            "`user: str`, `caller: Caller`, or one of the type that the connection's dependency returns"
        )

    async def __call__(self, caller: Caller, texts: dict[str, str], data: bytes = b"") -> Any:
        """Call the function; raises what it raises, and NoMatch, BadRequest, PermissionDenied for its parameters."""
        values = {name: source(caller, texts, data) for name, source in self._sources.items()}
        if self._is_async:
            return await self._function(**values)
        return await asyncio.to_thread(self._function, **values)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigurationError(f"{_called(function)}: its annotations cannot be read ({error})") from None


def _called(function: Callable[..., Any]) -> str:
    return f"the rule {getattr(function, '__qualname__', function)!s}"


def _is_model(type_: Any) -> bool:
    if typing.get_origin(type_) is typing.Annotated:
        type_ = typing.get_args(type_)[0]
    return (isinstance(type_, type) and issubclass(type_, BaseModel | msgspec.Struct)) or dataclasses.is_dataclass(
        type_
    )


def _from_pattern(name: str, type_: Any) -> Source:
    if type_ in (str, Any):
        return lambda _, texts, __: texts[name]
    adapter = TypeAdapter(type_)

    def convert(_: Caller, texts: dict[str, str], __: bytes) -> Any:
        try:
            return adapter.validate_python(texts[name])
        except ValidationError:
            raise NoMatch from None

    return convert


def _from_data(type_: Any) -> Source:
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        decode = msgspec.json.Decoder(type_).decode

        def of_struct(_: Caller, __: dict[str, str], data: bytes) -> Any:
            try:
                return decode(data or b"null")
            except (msgspec.MsgspecError, RecursionError) as error:
                raise BadRequest(f"the arguments do not fit: {error}") from None

        return of_struct
    adapter = TypeAdapter(type_)

    def of_model(_: Caller, __: dict[str, str], data: bytes) -> Any:
        try:
            return adapter.validate_json(data or b"null")
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the value"
            raise BadRequest(f"the arguments do not fit: {where}: {first['msg']}") from None

    return of_model


def _from_context(name: str, type_: Any, default: Any) -> Source:
    is_class = isinstance(type_, type)

    def find(caller: Caller, _: dict[str, str], __: bytes) -> Any:
        context = caller.identity.context
        if not is_class or isinstance(context, type_):
            return context
        if default is not inspect.Parameter.empty:
            return default
        raise PermissionDenied(f"this connection has no {type_.__name__}, which the rule asks for as {name!r}")

    return find
