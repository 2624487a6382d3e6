"""The values of parameters: from the pattern, the caller, the data that was sent, or the connection's dependency."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Any

from fastapi import BackgroundTasks
from fastapi.params import Body, Depends, Param
from fastapi.security import SecurityScopes
from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection
from starlette.responses import Response

from tidewire.errors import BadRequest, ConfigurationError, InvalidMessage, PermissionDenied
from tidewire.protocols.json_text import JsonDecoder
from tidewire.protocols.message_shape import Shape, is_message_type
from tidewire.rules.base import Caller, Identity
from tidewire.support.log_limit import LogLimit

__all__ = (
    "NoMatch",
    "Source",
    "bare",
    "called_in_errors",
    "can_be_data",
    "check_kind",
    "check_lasts",
    "classes_of",
    "depends_of",
    "hints_of",
    "parameters_of",
    "source_of_call",
    "source_of_context",
    "source_of_data",
)

logger = logging.getLogger("tidewire")
#: Clients could cause these lines as often as they like.
_log_limit = LogLimit()

_DATA_NAMES = frozenset({"data", "args", "params"})
#: The classes of values that FastAPI makes for one HTTP request.
_OF_REQUESTS = (HTTPConnection, Response, BackgroundTasks, SecurityScopes)

#: Finds the value of one parameter: from the call, the texts of the pattern, and the data that was sent.
Source = Callable[[Caller, dict[str, str], Any], Any]


class NoMatch(Exception):
    """Raised when a parameter of a channel's name is not of the type that the rule wants."""


def check_kind(called: str, parameter: inspect.Parameter) -> None:
    """Raise ConfigurationError for a parameter that cannot be given by its name."""
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
        raise ConfigurationError(f"{called}: parameter {parameter.name!r} must be one that is given by name")


def source_of_call(name: str, type_: Any, names: Sequence[str]) -> Source | None:
    """Return the source of a parameter that every call has: one of the pattern, the caller, its identity, its user."""
    is_typed, plain = _is_typed(type_), bare(type_)
    if name in names:
        return _from_pattern(name, type_ if is_typed else str)
    if plain is Caller:
        return lambda caller, _, __: caller
    if plain is Identity:
        return lambda caller, _, __: caller.identity
    if name == "user" and (plain is str or not is_typed):
        return lambda caller, _, __: caller.identity.user
    if name == "user" and classes_of(type_) == (str,):  # or None
        return lambda caller, _, __: caller.identity.user or None
    return None


def can_be_data(name: str, type_: Any) -> bool:
    """Return whether a parameter may be for the data that was sent."""
    return name != "user" and (name in _DATA_NAMES or is_message_type(type_))


def check_lasts(called: str, parameter: inspect.Parameter, type_: Any) -> None:
    """Raise ConfigurationError for a parameter of the handshake's request."""
    if _is_of_request(parameter, type_):
        raise ConfigurationError(
            f"{called}: parameter {parameter.name!r} is of the handshake's request, which has ended when a "
            "rule is asked; take it in the dependency of client_router(user=…), and its result here by its type"
        )


def source_of_context(called: str, parameter: inspect.Parameter, type_: Any) -> Source | None:
    """Return the source of a parameter that takes the result of the connection's dependency, found by its type."""
    classes = classes_of(type_) if _is_typed(type_) else ()
    if not classes and parameter.name != "context":
        return None
    return _from_context(called, parameter.name, classes or (object,), _default(parameter, type_))


def _is_typed(type_: Any) -> bool:
    return type_ not in (Any, inspect.Parameter.empty)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function; raises ConfigurationError for one without a signature."""
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise ConfigurationError(
            f"{called_in_errors(function)}: it has no signature ({error}); give a function with one"
        ) from None


def bare(type_: Any) -> Any:
    """Return a type without its `Annotated`, and for a `NewType` its supertype."""
    while True:
        if typing.get_origin(type_) is typing.Annotated:
            type_ = typing.get_args(type_)[0]
        elif isinstance(type_, typing.NewType):
            type_ = type_.__supertype__
        else:
            return type_


def depends_of(parameter: inspect.Parameter, type_: Any) -> Depends | None:
    """Return the Depends(…) of a parameter, as its default or in its annotation, where the last one holds."""
    if isinstance(parameter.default, Depends):
        return parameter.default
    if typing.get_origin(type_) is typing.Annotated:
        return next((extra for extra in reversed(typing.get_args(type_)[1:]) if isinstance(extra, Depends)), None)
    return None


def _is_of_request(parameter: inspect.Parameter, type_: Any) -> bool:
    """Return whether a parameter is one of an HTTP request or handshake: Request, Header(…), Query(…)."""
    extras: tuple[Any, ...] = (parameter.default,)
    if typing.get_origin(type_) is typing.Annotated:
        type_, *more = typing.get_args(type_)
        extras = (*extras, *more)
    if any(isinstance(extra, Param | Body) for extra in extras):
        return True
    return any(issubclass(class_, _OF_REQUESTS) for class_ in classes_of(type_))


def classes_of(type_: Any) -> tuple[type, ...]:
    """Return the classes that a type is one of, without None; () for a type by which no value can be found."""
    type_ = bare(type_)
    origin = typing.get_origin(type_)
    if origin in (typing.Union, UnionType):
        return tuple(
            class_ for inner in typing.get_args(type_) for class_ in classes_of(inner) if class_ is not NoneType
        )
    if typing.is_typeddict(type_):
        return (dict,)
    class_ = origin or type_
    return (class_,) if isinstance(class_, type) and _is_checkable(class_) else ()


def _is_checkable(class_: type) -> bool:
    """Return whether a value can be asked whether it is of a class: one of a plain Protocol cannot."""
    try:
        isinstance(None, class_)
    except TypeError:
        return False
    return True


def _default(parameter: inspect.Parameter, type_: Any) -> Any:
    """Return the default of a parameter; None where its type allows that."""
    if parameter.default is inspect.Parameter.empty and NoneType in typing.get_args(type_):
        return None
    return parameter.default


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters; raises ConfigurationError for annotations that cannot be read."""
    target: Any = function
    while isinstance(target, partial):
        target = target.func
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigurationError(
            f"{called_in_errors(function)}: its annotations cannot be read ({error}); import or define their types at "
            "the top of the module, outside of `if TYPE_CHECKING`"
        ) from None


def called_in_errors(function: Callable[..., Any]) -> str:
    """Return what a function is called in errors."""
    return f"the rule {getattr(function, '__qualname__', function)!s}"


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


def source_of_data(type_: Any) -> Source:
    """Return the source of a parameter that takes the data that was sent."""
    decode = JsonDecoder(Any).decode if type_ is Any else Shape(type_).decode

    def of_call(_: Caller, __: dict[str, str], data: bytes) -> Any:
        try:
            return decode(data or b"null")
        except InvalidMessage as error:
            raise InvalidMessage(f"the arguments do not fit: {error}", error.problems) from None
        except BadRequest as error:
            raise BadRequest(f"the arguments do not fit: {error}") from None

    return of_call


def _from_context(called: str, name: str, classes: tuple[type, ...], default: Any) -> Source:
    def find(caller: Caller, _: dict[str, str], __: bytes) -> Any:
        context = caller.identity.context
        if isinstance(context, classes) and (context is not None or default is inspect.Parameter.empty):
            return context
        if default is not inspect.Parameter.empty:
            return default
        shown = " or ".join(class_.__name__ for class_ in classes)
        # a class of the application's own is meant to refuse users of another; a plain type is a slip
        if all(class_.__module__ == "builtins" for class_ in classes) and (more := _log_limit.due(called)) is not None:
            logger.warning(
                "%s: no user dependency gave %r, which takes a result of type %s; "
                "data of a call are a model, or a parameter called data%s",
                *(called, name, shown, more),
            )
        raise PermissionDenied(f"this connection has no {shown}, which the rule asks for as {name!r}")

    return find
