"""Checks of inputs before a run starts: they must exist and have the right form; each error says how to mend it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tidewire.pipelines.definition import Input, Pipeline
from tidewire.pipelines.errors import BadStart
from tidewire.pipelines.file_kinds import FIRST_BYTES, kind_of
from tidewire.pipelines.folders import file_problem
from tidewire.pipelines.naming import readable

__all__ = ("check_ending", "check_names", "find_inputs")

_GZIP = b"\x1f\x8b"


def check_names(pipeline: Pipeline, given: Iterable[str]) -> None:
    """Raise BadStart for an input that the pipeline does not have."""
    known = {wanted.name for wanted in pipeline.inputs}
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        inputs = ", ".join(sorted(known)) or "none"
        raise BadStart(f"pipeline {pipeline.name!r} has no input {unknown[:60]!r}; it has {inputs}")


def find_inputs(pipeline: Pipeline, sample: str, given: Mapping[str, Path], folder: Path | None) -> dict[str, Path]:
    """Return the input files of a run: those given, and others by name from the folder of inputs. Raises BadStart."""
    check_names(pipeline, given)
    found = {}
    for wanted in pipeline.inputs:
        path = given.get(wanted.name) or _named(wanted, sample, folder)
        if path is not None:
            found[wanted.name] = _checked(wanted, path)
        elif not wanted.optional:
            names = ", ".join(wanted.names(sample)) or "none is looked for"
            raise BadStart(
                f"input {wanted.name!r} of sample {sample!r} is missing; give a file, or put one into the folder of "
                f"inputs ({names})"
            )
    return found


def _named(wanted: Input, sample: str, folder: Path | None) -> Path | None:
    paths = (folder / name for name in wanted.names(sample)) if folder else ()
    return next((path for path in paths if path.is_file() or path.is_symlink()), None)


def check_ending(wanted: Input, name: str) -> None:
    """Raise BadStart for a file whose name does not end as the input wants."""
    if wanted.accept and not name.lower().endswith(tuple(end.lower() for end in wanted.accept)):
        raise BadStart(f"input {wanted.name!r} is {name!r}, which does not end with {' or '.join(wanted.accept)}")


def _checked(wanted: Input, path: Path) -> Path:
    name = readable(path.name)
    check_ending(wanted, name)
    # a pipe that nobody writes to would keep the run waiting for ever
    if (path.exists() or path.is_symlink()) and (problem := file_problem(path)):
        raise BadStart(f"input {wanted.name!r}: {name!r} {problem}")
    try:
        with path.open("rb") as file:
            first = file.read(FIRST_BYTES)
    except OSError as error:
        raise BadStart(f"input {wanted.name!r} cannot be read: {name!r}: {error.strerror}") from None
    if not first:
        raise BadStart(f"input {wanted.name!r} is empty: {name!r}; give another file")
    if name.endswith(".gz") and not first.startswith(_GZIP):
        kind = kind_of(first)
        remedy = f"it is {kind}" if kind else "compress or rename it"
        raise BadStart(f"input {wanted.name!r} is no gzip file although it is named {name!r}; {remedy}")
    # programs open the targets of links, but a user knows the names of the links
    return Path(os.path.abspath(path))
