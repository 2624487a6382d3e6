"""The programs of steps: where they are, and why one cannot be started."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

from tidewire.pipelines.definition import Pipeline, Step
from tidewire.pipelines.errors import NotNow

__all__ = ("Missing", "check_programs", "missing_programs", "program_path", "program_problem", "unbuffered")

#: Bytes of the first line of a script.
_LINE = 256
#: The interpreter `env` looks for another one by name.
_ENV = "/env"
_BOM = b"\xef\xbb\xbf"
_PYTHON = re.compile(r"(?:.*/)?(?:python|pypy)[\d.]*")


class Missing(msgspec.Struct, frozen=True, omit_defaults=True):
    """A program of a step that cannot be started, with the Debian package that contains it, or with its problem."""

    step: str
    program: str
    package: str = ""
    problem: str = ""

    @property
    def remedy(self) -> str:
        """The way to mend it."""
        return self.problem or f"apt-get install {self.package}"


def program_path(step: Step, folder: str) -> str:
    """Return the path of a step's program, "" when it is not found.

    A name is looked for in PATH; a relative path begins at the folder of the pipeline's file.
    """
    name = step.run[0]
    if "/" in name:
        path = os.path.join(folder, name) if folder else os.path.abspath(name)
        return path if os.path.exists(path) else ""
    return shutil.which(name) or ""


def unbuffered(argv: list[str]) -> list[str]:
    """Return the arguments of a program, with `-u` for Python: after -I or -E it does not read PYTHONUNBUFFERED."""
    return [argv[0], "-u", *argv[1:]] if _PYTHON.fullmatch(argv[0]) else argv


def program_problem(step: Step, folder: str) -> str:
    """Return why a step's program cannot be started, and how to mend it; "" when it can, or is not installed."""
    name = step.run[0]
    path = program_path(step, folder)
    if not path:
        beside = os.path.join(folder, name)
        if "/" in name:
            return f"there is no file {beside}"
        if folder and os.path.isfile(beside):
            return f'{name} lies beside the pipeline\'s file, and not in PATH; write run = ["./{name}", …]'
        return ""
    if os.path.isdir(path):
        return f"{path} is a folder; name the program in it"
    if not os.access(path, os.X_OK):
        return f"{path} is not executable; chmod +x {path}"
    return _script_problem(path)


def _script_problem(path: str) -> str:
    try:
        with open(path, "rb") as file:
            first = file.read(_LINE).partition(b"\n")[0]
    except OSError:
        return ""  # it may be executed, but not read
    if first[:2] != b"#!":
        return _headless(path, first)
    if first.endswith(b"\r"):
        return f"the lines of {path} end as on Windows (CRLF): its interpreter is not found; sed -i 's/\\r$//' {path}"
    words = first[2:].decode(errors="replace").split()
    if not words:
        return f"the first line of {path} names no interpreter after #!"
    if not os.path.exists(words[0]):
        return f"{path} names the interpreter {words[0]}, which is not there; install it, or change the first line"
    if os.path.isdir(words[0]) or not os.access(words[0], os.X_OK):
        return f"{path} names the interpreter {words[0]}, which is no program; change the first line"
    named = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    if words[0].endswith(_ENV) and named and shutil.which(named) is None:
        return f"{path} names the interpreter {named}, which is not installed"
    return ""


def _headless(path: str, first: bytes) -> str:
    """Return why a file that does not begin with #! is no program, "" for one in machine code."""
    if first.startswith((_BOM, b"\xff\xfe", b"\xfe\xff")):
        return f"{path} begins with a byte order mark (BOM), and not with #!; save it as plain text without one"
    if b"\0" in first or first.startswith(b"\x7fELF"):
        return ""
    if not first.strip() and not os.path.getsize(path):
        return f"{path} is empty"
    return f"{path} has no first line as #!/bin/sh, which names its interpreter; add it"


def missing_programs(pipeline: Pipeline) -> list[Missing]:
    """Return the programs of a pipeline that this machine cannot start."""
    found = []
    for step in pipeline.steps:
        if not step.run:
            continue
        if problem := program_problem(step, pipeline.folder):
            found.append(Missing(step.name, step.run[0], problem=problem))
        elif not program_path(step, pipeline.folder):
            found.append(Missing(step.name, step.run[0], step.package or Path(step.run[0]).name))
    return found


def check_programs(pipeline: Pipeline) -> None:
    """Raise NotNow for programs that cannot be started, with how to mend it."""
    missing = missing_programs(pipeline)
    broken = next((found for found in missing if found.problem), None)
    if broken is not None:
        raise NotNow(f"step {broken.step!r} of pipeline {pipeline.name!r} cannot be started: {broken.problem}")
    if missing:
        programs = ", ".join(f"{found.program} (step {found.step!r})" for found in missing)
        packages = " ".join(dict.fromkeys(found.package for found in missing))
        raise NotNow(
            f"pipeline {pipeline.name!r} needs programs that are not installed: {programs}; apt-get install {packages}"
        )
