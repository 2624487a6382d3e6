"""Loads pipelines from TOML files: those of a folder, and those that come with tidewire."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.pipelines.definition import Input, Pipeline, Progress, Step

__all__ = ("builtin", "load", "load_folder")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    steps: tuple[Step, ...]
    name: str = ""
    title: str = ""
    description: str = ""
    inputs: dict[str, dict[str, Any]] = {}
    show: tuple[str, ...] = ()


def load(path: Path, *, name: str = "") -> Pipeline:
    """Return the pipeline of a file; `name` is used unless the file has a name. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); make it readable") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    try:
        return _pipeline(table, name or path.stem, str(path.parent.resolve()))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_explained(str(error))}") from None


def _pipeline(table: dict[str, Any], name: str, folder: str) -> Pipeline:
    if any("function" in step for step in table.get("steps", ()) if isinstance(step, dict)):
        raise ConfigurationError('a file names a function as python = "module:function"')
    file = msgspec.convert(table, _File)
    inputs = [msgspec.convert({**given, "name": key}, Input) for key, given in file.inputs.items()]
    return Pipeline(file.name or name, file.steps, file.title, file.description, tuple(inputs), folder, file.show)


def _explained(problem: str) -> str:
    """Return a validation error in plain words, with the field that was probably meant."""
    problem = re.sub(r" - at `\$\.?(.*?)`", r" (in \1)", problem).replace("Object ", "it ", 1)
    unknown = re.search(r"unknown field `(.*?)`", problem)
    known = {*_File.__struct_fields__, *Step.__struct_fields__, *Input.__struct_fields__, *Progress.__struct_fields__}
    near = difflib.get_close_matches(unknown[1], known - {"function"}, 1, 0.5) if unknown else []
    hint = f"; did you mean {near[0]}?" if near else "; `tidewire docs reference/pipelines` lists all fields"
    return problem[:1].lower() + problem[1:] + hint


def load_folder(folder: Path) -> list[Pipeline]:
    """Return the pipelines of all `*.toml` files of a folder, sorted by name. Raises ConfigurationError."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder; make it, or name another with pipelines.folder")
    return sorted((load(path) for path in folder.glob("*.toml")), key=lambda found: found.name)


def builtin() -> list[Pipeline]:
    """Return the pipelines that come with tidewire: each `pipeline.toml` in a folder beside this module."""
    return [load(path, name=path.parent.name) for path in sorted(Path(__file__).parent.glob("*/pipeline.toml"))]
