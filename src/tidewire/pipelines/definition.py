"""The definition of a pipeline: its inputs and steps, as frozen values that cannot be wrong."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.pipelines.naming import expand, is_name, placeholders

__all__ = ("Input", "Pipeline", "Progress", "Step", "pipeline")

#: The placeholders that every step has.
STANDARD = ("sample", "threads", "workdir", "stepdir", "results", "run", "pipeline", "folder")
_STEPS = 100
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measure of a program's progress: a regular expression, lines or bytes of output, or its place in an input."""

    pattern: str = ""
    lines: int = 0
    bytes: int = 0
    input: str = ""


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input file of a run. `accept` lists the endings of its name, `find` the names to look for without a file."""

    name: str
    title: str = ""
    accept: tuple[str, ...] = ()
    find: tuple[str, ...] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        if not is_name(self.name) or self.name in STANDARD:
            raise ConfigurationError(
                f"input {self.name[:60]!r} cannot have this name; write lower-case letters, digits, '_' or '-', "
                f"and none of {', '.join(STANDARD)}"
            )
        for template in self.find:
            unknown = placeholders(template) - {"sample"}
            if unknown or "/" in template:
                raise ConfigurationError(
                    f"input {self.name!r} is looked for as {template!r}; write a file name with {{sample}}, no folder"
                )

    def names(self, sample: str) -> list[str]:
        """Return the file names under which this input of a sample is looked for."""
        templates = self.find or tuple("{sample}" + end for end in self.accept)
        return [template.replace("{sample}", sample) for template in templates]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step: a program with its arguments (`run`), a function by name (`python`), or one of this process."""

    name: str
    run: tuple[str, ...] = ()
    python: str = ""
    function: Any = None
    title: str = ""
    needs: tuple[str, ...] | None = None
    weight: float = 1.0
    timeout: float | None = None
    retries: int = 0
    retry_seconds: float = 1.0
    env: dict[str, str] = {}
    pass_env: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stdin: str = ""
    stdout: str = ""
    progress: Progress = Progress()
    package: str = ""
    nice: int = 10
    grace: float = 5.0
    memory: int = 0

    def __post_init__(self) -> None:
        if not is_name(self.name) or self.name == "queue":
            raise ConfigurationError(
                f"step {self.name[:60]!r} cannot have this name; write a-z, 0-9, '_' and '-', and not 'queue'"
            )
        try:
            self._check()
        except ConfigurationError as error:
            raise ConfigurationError(f"step {self.name!r}: {error}") from None

    @property
    def is_local(self) -> bool:
        """Whether the step is a coroutine function of this process."""
        return self.function is not None and inspect.iscoroutinefunction(self.function)

    @property
    def reference(self) -> str:
        """The function to run in a separate process, as `module:name`."""
        function: Callable[..., object] | None = self.function
        return self.python if function is None else f"{function.__module__}:{function.__qualname__}"

    @property
    def templates(self) -> tuple[str, ...]:
        """All values that may contain placeholders."""
        return (*self.run[1:], *self.env.values(), *self.inputs, *self.outputs, self.stdin, self.stdout)

    def _check(self) -> None:
        ways = [name for name in ("run", "python", "function") if getattr(self, name)]
        if len(ways) != 1:
            raise ConfigurationError(
                f'it has {" and ".join(ways) or "nothing to do"}; write run = ["program", …] or python = "module:name"'
            )
        if self.run and (placeholders(self.run[0]) or not self.run[0] or self.run[0].startswith("-")):
            raise ConfigurationError(f"its program is {self.run[0]!r}; write a name or a path without placeholders")
        if not self.run and not self.is_local and not _FUNCTION.fullmatch(self.reference):
            raise ConfigurationError(
                f"{self.reference!r} cannot be found by another process; write it at a module's top, or as async def"
            )
        if self.reference.startswith("__main__:") and not self.is_local:
            raise ConfigurationError(f"{self.reference!r} is in the main program; move it into a module")
        self._check_numbers()
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                raise ConfigurationError(f"env {name!r} is no name of a variable; write letters, digits and '_'")
        for name in self.pass_env:
            if not _VARIABLE.fullmatch(name.removesuffix("*")) or name.upper().startswith("TIDEWIRE_"):
                raise ConfigurationError(
                    f"pass_env {name!r} names no variables; write names, which may end with '*', and not tidewire's own"
                )
        _check_progress(self.progress)

    def _check_numbers(self) -> None:
        for name, most in (("weight", 1e6), ("timeout", math.inf), ("retry_seconds", 86_400.0), ("grace", 600.0)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise ConfigurationError(f"{name} is {value!r}; write a number greater than 0")
        if not 0 <= self.retries <= 100:
            raise ConfigurationError(f"retries is {self.retries}; write 0 to 100")
        if self.memory < 0:
            raise ConfigurationError(f"memory is {self.memory}; write bytes, or 0 for no limit")
        if not 0 <= self.nice <= 19:
            raise ConfigurationError(f"nice is {self.nice}; write 0 (as the server) to 19 (last)")


def _check_progress(progress: Progress) -> None:
    rules = [name for name in Progress.__struct_fields__ if getattr(progress, name)]
    if len(rules) > 1:
        raise ConfigurationError(f"progress has {' and '.join(rules)}; write one of them")
    if progress.lines < 0 or progress.bytes < 0:
        raise ConfigurationError("progress cannot count to a negative number; write how many are all")
    try:
        groups = re.compile(progress.pattern).groups
    except re.error as error:
        raise ConfigurationError(f"progress pattern {progress.pattern!r} is no regular expression ({error})") from None
    if progress.pattern and groups not in (1, 2):
        raise ConfigurationError(
            f"progress pattern {progress.pattern!r} has {groups} groups; write one (percentage) or two (done, of all)"
        )


class Pipeline(msgspec.Struct, frozen=True):
    """A pipeline: ordered steps over inputs. Raises ConfigurationError for one that cannot work.

    A step without `needs` needs the step before it. `folder` is the folder of the pipeline's file. `show` names the
    results that a browser may open in place.
    """

    name: str
    steps: tuple[Step, ...]
    title: str = ""
    description: str = ""
    inputs: tuple[Input, ...] = ()
    folder: str = ""
    show: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigurationError(
                f"pipeline {self.name[:60]!r} cannot have this name; write lower-case letters, digits, '_' or '-'"
            )
        try:
            msgspec.structs.force_setattr(self, "steps", tuple(_with_needs(self.steps)))
            self._check()
        except ConfigurationError as error:
            raise ConfigurationError(f"pipeline {self.name!r}: {error}") from None

    def step(self, name: str) -> Step | None:
        """Return a step by name."""
        return next((step for step in self.steps if step.name == name), None)

    def shown(self, sample: str) -> list[str]:
        """Return the names of one sample's results that a browser may open in place."""
        return [expand(template, {"sample": sample}) for template in self.show]

    def _check(self) -> None:
        unknown = next((name for name in self.show if placeholders(name) - {"sample"} or not name), None)
        if unknown is not None:
            raise ConfigurationError(f"show has {unknown!r}; write the name of a result, with {{sample}} if need be")
        if not 1 <= len(self.steps) <= _STEPS:
            raise ConfigurationError(f"it has {len(self.steps)} steps; write 1 to {_STEPS}")
        for kind, values in (("step", self.steps), ("input", self.inputs)):
            names = [value.name for value in values]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise ConfigurationError(f"two {kind}s are named {twice!r}; give one of them another name")
        inputs = {given.name for given in self.inputs}
        for step in self.steps:
            _check_templates(step, inputs)
        _check_needs(self.steps)


def _with_needs(steps: Iterable[Step]) -> Iterable[Step]:
    before: tuple[str, ...] = ()
    for step in steps:
        yield step if step.needs is not None else msgspec.structs.replace(step, needs=before)
        before = (step.name,)


def _check_templates(step: Step, inputs: set[str]) -> None:
    known = {*STANDARD, *inputs}
    for template in step.templates:
        unknown = sorted(placeholders(template) - known)
        if unknown:
            raise ConfigurationError(
                f"step {step.name!r}: {{{unknown[0]}}} in {template!r} is no placeholder; "
                f"there are {', '.join(sorted(known))}"
            )
    if step.progress.input and step.progress.input not in inputs:
        raise ConfigurationError(
            f"step {step.name!r}: progress counts the bytes read of {step.progress.input!r}, which is no input; "
            f"there are {', '.join(sorted(inputs)) or 'none'}"
        )


def _check_needs(steps: tuple[Step, ...]) -> None:
    names = {step.name for step in steps}
    for step in steps:
        unknown = next((need for need in step.needs or () if need not in names), None)
        if unknown:
            raise ConfigurationError(f"step {step.name!r} needs {unknown!r}, which is no step of it")
    try:
        TopologicalSorter({step.name: step.needs or () for step in steps}).prepare()
    except CycleError as error:
        raise ConfigurationError(
            f"its steps need each other in a circle ({' → '.join(reversed(error.args[1]))}); take one of them away"
        ) from None


def pipeline(
    name: str, *, title: str = "", description: str = "", inputs: Iterable[Input] = (), timeout: float | None = None
) -> Callable[[Callable[..., object]], Pipeline]:
    """Make a pipeline of one step from a function that is given a `Job`; a decorator."""

    def made(function: Callable[..., object]) -> Pipeline:
        step = Step(function.__name__.strip("_").lower(), function=function, timeout=timeout)
        return Pipeline(name, (step,), title, description, tuple(inputs))

    return made
