"""The handlers of an application: its functions, called with the values that their parameters ask for."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, NamedTuple

from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.params import Depends

from tidewire.errors import ConfigurationError
from tidewire.rules.base import Caller
from tidewire.rules.dependency_overrides import Overrides
from tidewire.rules.parameters import (
    Source,
    bare,
    called_in_errors,
    can_be_data,
    check_kind,
    check_lasts,
    depends_of,
    hints_of,
    parameters_of,
    source_of_call,
    source_of_context,
    source_of_data,
)
from tidewire.support.shared_tasks import call_in_thread

__all__ = ("Bound",)

logger = logging.getLogger("tidewire")


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
        for parameter in parameters_of(function):
            type_ = hints.get(parameter.name, inspect.Parameter.empty)
            depends = depends_of(parameter, type_)
            if depends is not None:
                self._dependencies[parameter.name] = _Dependency(depends, type_, names, self._overrides)
            else:
                self._sources[parameter.name] = self._source(parameter, type_, names, takes_data)
        missing = [name for name in names if name not in self.given]
        if missing and all_names:
            raise ConfigurationError(
                f"{called_in_errors(function)} takes no parameter {missing[0]!r}, which its pattern has; add it"
            )

    @property
    def given(self) -> set[str]:
        """The names of all parameters, those of dependencies too."""
        return set(self._sources).union(*(dependency.given for dependency in self._dependencies.values()))

    def _source(self, parameter: inspect.Parameter, type_: Any, names: Sequence[str], takes_data: bool) -> Source:
        name, called = parameter.name, called_in_errors(self.function)
        check_kind(called, parameter)
        known = source_of_call(name, type_, names)
        if known is not None:
            return known
        if takes_data and not self.takes_data and can_be_data(name, type_):
            self.takes_data, self.data_type = True, Any if type_ is inspect.Parameter.empty else type_
            return source_of_data(self.data_type)
        check_lasts(called, parameter, type_)
        if self._knows_context and (source := source_of_context(called, parameter, type_)) is not None:
            return source
        raise ConfigurationError(
            f"{called}: nothing is known for parameter {name!r}; take a parameter of the pattern, "
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
                logger.warning("%s failed when it was cancelled: %r", called_in_errors(self.function), error)
                raise asyncio.CancelledError from error
            if isinstance(error, Exception):
                raise
            raise self._failure(error) from error  # as by `sys.exit`

    def _failure(self, error: BaseException) -> RuntimeError:
        return RuntimeError(f"{called_in_errors(self.function)} raised {type(error).__name__}: {error}")

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
        function: Any = depends.dependency or bare(type_)
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
