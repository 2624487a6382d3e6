"""The handlers of an application: its functions, called with the values that their parameters ask for."""

from __future__ import annotations

import asyncio
import inspect
import logging
import typing
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from types import NoneType, UnionType
from typing import Any, NamedTuple

from fastapi import BackgroundTasks
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.params import Body, Depends, Param
from fastapi.security import SecurityScopes
from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection
from starlette.responses import Response

from tidewire.errors import BadRequest, ConfigurationError, InvalidMessage, PermissionDenied
from tidewire.protocols.json_text import JsonDecoder
from tidewire.protocols.message_shape import Shape, is_message_type
from tidewire.rules.base import Caller, Identity
from tidewire.rules.dependency_overrides import Overrides
from tidewire.support.log_limit import LogLimit
from tidewire.support.shared_tasks import call_in_thread

__all__ = ("Bound", "NoMatch", "Source", "classes_of", "depends_of", "hints_of")

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


class Bound:
    """A function with the sources of its parameters; one that is no coroutine function runs in a thread, as in FastAPI.

    Dependencies (`Depends(…)`) are resolved for each call, with these same sources; those with `yield` are closed after
    it, and see its exception; `overrides` take their place. Raises ConfigurationError for a parameter that nothing can
    be given for.
    """

    __slots__ = ("_dependencies", "_is_async", "_overrides", "_sources", "data_type", "function", "takes_data")

    #: Whether it is called for a connection, whose dependency has returned a value.
    _knows_context = True

    def __init__(
        self,
        function: Callable[..., Any],
        names: Sequence[str] = (),
        *,
        takes_data: bool = False,
        all_names: bool = True,
        overrides: Overrides | None = None,
    ) -> None:
        self.function = function
        self._is_async = _is(inspect.iscoroutinefunction, function)
        self._overrides = overrides or Overrides()
        self.takes_data = False
        #: The type of the data that it takes; None: it takes none.
        self.data_type: Any = None
        self._sources: dict[str, Source] = {}
        self._dependencies: dict[str, _Dependency] = {}
        hints = hints_of(function)
        for parameter in _parameters(function):
            type_ = hints.get(parameter.name, inspect.Parameter.empty)
            depends = depends_of(parameter, type_)
            if depends is not None:
                self._dependencies[parameter.name] = _Dependency(depends, type_, names, self._overrides)
            else:
                self._sources[parameter.name] = self._source(parameter, type_, names, takes_data)
        missing = [name for name in names if name not in self.given]
        if missing and all_names:
            raise ConfigurationError(
                f"{_called(function)} takes no parameter {missing[0]!r}, which its pattern has; add it"
            )

    @property
    def given(self) -> set[str]:
        """The names of all parameters, those of dependencies too."""
        return set(self._sources).union(*(dependency.given for dependency in self._dependencies.values()))

    def _source(self, parameter: inspect.Parameter, type_: Any, names: Sequence[str], takes_data: bool) -> Source:
        name, is_typed = parameter.name, type_ not in (Any, inspect.Parameter.empty)
        bare = _bare(type_)
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(f"{_called(self.function)}: parameter {name!r} must be one that is given by name")
        if name in names:
            return _from_pattern(name, type_ if is_typed else str)
        if bare is Caller:
            return lambda caller, _, __: caller
        if bare is Identity:
            return lambda caller, _, __: caller.identity
        if name == "user" and (bare is str or not is_typed):
            return lambda caller, _, __: caller.identity.user
        if name == "user" and classes_of(type_) == (str,):  # or None
            return lambda caller, _, __: caller.identity.user or None
        if takes_data and not self.takes_data and name != "user" and (name in _DATA_NAMES or is_message_type(type_)):
            self.takes_data, self.data_type = True, type_ if is_typed else Any
            return _from_data(type_ if is_typed else Any)
        if _is_of_request(parameter, type_):
            raise ConfigurationError(
                f"{_called(self.function)}: parameter {name!r} is of the handshake's request, which has ended when a "
                "rule is asked; take it in the dependency of client_router(user=…), and its result here by its type"
            )
        classes = classes_of(type_) if is_typed else None
        if self._knows_context and (classes or name == "context"):
            return _from_context(_called(self.function), name, classes or (object,), _default(parameter, type_))
        raise ConfigurationError(
            f"{_called(self.function)}: nothing is known for parameter {name!r}; take a parameter of the pattern, "
            "`user: str`, `caller: Caller`, one of the type that the connection's dependency returns, or Depends(…)"
        )

    async def __call__(self, caller: Caller, texts: dict[str, str], data: Any = b"") -> Any:
        """Call the function; raises its exceptions, and NoMatch, BadRequest, PermissionDenied for its parameters."""
        task = asyncio.current_task()
        cancels = 0 if task is None else task.cancelling()
        try:
            if not self._dependencies:
                return await self._run({name: source(caller, texts, data) for name, source in self._sources.items()})
            async with AsyncExitStack() as stack:
                return await self._run(await self._values(_Call(caller, texts, data, stack, {})))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                raise
            raise self._failure(error) from error  # the end of another task
        except BaseException as error:
            if task is not None and task.cancelling() > cancels:
                # it failed at its end, for which its canceller waits
                logger.warning("%s failed when it was cancelled: %r", _called(self.function), error)
                raise asyncio.CancelledError from error
            if isinstance(error, Exception):
                raise
            raise self._failure(error) from error  # as by `sys.exit`

    def _failure(self, error: BaseException) -> RuntimeError:
        return RuntimeError(f"{_called(self.function)} raised {type(error).__name__}: {error}")

    async def _values(self, call: _Call) -> dict[str, Any]:
        values = {name: source(call.caller, call.texts, call.data) for name, source in self._sources.items()}
        for name, dependency in self._dependencies.items():
            values[name] = await dependency.provide(call)
        return values

    async def _run(self, values: dict[str, Any]) -> Any:
        if self._is_async:
            result = self.function(**values)
        else:
            result = await call_in_thread(self, partial(self._in_thread, values))
        return await result if inspect.iscoroutine(result) else result

    def _in_thread(self, values: dict[str, Any]) -> Any:
        try:
            return self.function(**values)
        except StopIteration as error:  # no future can be given one: its caller would wait for ever
            raise self._failure(error) from error


class _Call(NamedTuple):
    """One call of a rule, while its dependencies are resolved."""

    caller: Caller
    texts: dict[str, str]
    data: Any
    stack: AsyncExitStack
    known: dict[Any, Any]


class _Dependency(Bound):
    """A dependency of a rule, and its own dependencies."""

    __slots__ = ("_given", "_kind", "_known", "_names", "_type", "_uses_cache")

    def __init__(self, depends: Depends, type_: Any, names: Sequence[str], overrides: Overrides) -> None:
        function: Any = depends.dependency or _bare(type_)
        if not callable(function):
            raise ConfigurationError(f"Depends({function!r}) in a rule is no function; write Depends(get_session)")
        self._given, self._type, self._names, self._uses_cache = function, type_, names, depends.use_cache
        #: The functions that a test has put in its place, bound.
        self._known: dict[Any, _Dependency] = {}
        plain = inspect.isroutine(function) or inspect.isclass(function) or isinstance(function, partial)
        target = function if plain else function.__call__
        super().__init__(target, names, all_names=False, overrides=overrides)
        self._kind = _is(inspect.isasyncgenfunction, target), _is(inspect.isgeneratorfunction, target)

    async def provide(self, call: _Call) -> Any:
        """Return the value of the dependency, or of its override, once for each call of a rule."""
        instead = self._overrides.find(self._given)
        if instead is not None:
            return await self._instead(instead).provide(call)
        key = self._given if self._uses_cache else object()
        if key not in call.known:
            call.known[key] = await self._open(call)
        return call.known[key]

    def _instead(self, function: Any) -> _Dependency:
        if function not in self._known:
            depends = Depends(function, use_cache=self._uses_cache)
            self._known[function] = _Dependency(depends, self._type, self._names, self._overrides)
        return self._known[function]

    async def _open(self, call: _Call) -> Any:
        values = await self._values(call)
        is_async_generator, is_generator = self._kind
        if is_async_generator:
            return await call.stack.enter_async_context(asynccontextmanager(self.function)(**values))
        if is_generator:
            opened = contextmanager(self.function)(**values)
            return await call.stack.enter_async_context(contextmanager_in_threadpool(opened))
        return await self._run(values)


def _is(kind: Callable[[Any], bool], function: Any) -> bool:
    """Return whether a function, or the one that it wraps, is of a kind, as FastAPI sees it."""
    while isinstance(function, partial):
        function = function.func
    return kind(function) or kind(inspect.unwrap(function))


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function; raises ConfigurationError for one without a signature."""
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise ConfigurationError(
            f"{_called(function)}: it has no signature ({error}); give a function with one"
        ) from None


def _bare(type_: Any) -> Any:
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
    type_ = _bare(type_)
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
            f"{_called(function)}: its annotations cannot be read ({error}); import or define their types at the top "
            "of the module, outside of `if TYPE_CHECKING`"
        ) from None


def _called(function: Callable[..., Any]) -> str:
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


def _from_data(type_: Any) -> Source:
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
