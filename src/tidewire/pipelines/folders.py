"""The folder of a run, and the files in it that may be shown: never one outside of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidewire.pipelines.errors import NotFound

__all__ = ("FileFacts", "RunFolder", "list_files", "read_range")

_FILES = 10_000


class FileFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file by its name inside a folder; `show`: a browser may open it in place."""

    name: str
    size: int
    modified: float
    show: bool = False


class RunFolder:
    """The folder of one run."""

    __slots__ = ("inputs", "logs", "path", "results", "work")

    def __init__(self, root: Path, run: str) -> None:
        self.path = root / "runs" / run
        self.work = self.path / "work"
        self.results = self.path / "results"
        self.inputs = self.path / "inputs"
        self.logs = self.path / "logs"

    def make(self) -> None:
        """Create the folder with its parts; harmless when it exists."""
        for folder in (self.work, self.results, self.inputs, self.logs):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the folder with all files in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def log(self, step: str) -> Path:
        """Return the log file of a step."""
        return self.logs / f"{step}.log"

    def fresh_stepdir(self, step: str) -> Path:
        """Return the folder of one step, emptied."""
        folder = self.work / step
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o750)
        return folder

    def result(self, name: str) -> Path:
        """Return a file among the results; raises NotFound for anything else, links to the outside included."""
        path = self.results / name
        try:
            inside = path.resolve(strict=True).is_relative_to(self.results.resolve())
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside or not path.is_file():
            raise NotFound(f"there is no result {name[:200]!r}; the list of results names them all")
        return path


def list_files(folder: Path) -> list[FileFacts]:
    """Return the files below a folder by name, at most 10,000; no links, and no names that are no text."""
    return sorted(_walk(folder), key=lambda file: file.name)[:_FILES]


def _walk(folder: Path) -> Iterator[FileFacts]:
    count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                facts = path.lstat()
            except OSError:
                continue  # a program has just removed it
            shown = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(facts.st_mode) or not _is_text(shown):
                continue
            count += 1
            if count > _FILES:
                return
            yield FileFacts(shown, facts.st_size, facts.st_mtime)


def _is_text(path: str) -> bool:
    """Return whether a name can be shown and requested: file systems allow names that are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_range(path: Path, start: int, limit: int) -> tuple[bytes, int, int]:
    """Return bytes of a file, the position of the first one, and the file's size; a negative start: from its end."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(size + start, 0) if start < 0 else min(start, size)
            file.seek(start)
            return file.read(limit), start, size
    except FileNotFoundError:
        return b"", 0, 0
