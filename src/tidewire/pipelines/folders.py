"""The folder of a run, and the files in it that may be shown; files outside of it are never shown."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidewire.pipelines.errors import NotFound
from tidewire.pipelines.naming import readable

__all__ = ("FileFacts", "RunFolder", "file_problem", "find_file", "list_files", "read_range")

_FILES = 10_000


class FileFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file by its name inside a folder. `show`: a browser may open it in place. `problem`: why it cannot be read."""

    name: str
    size: int
    modified: float
    show: bool = False
    problem: str = ""


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

    def list_results(self) -> list[FileFacts]:
        """Return the results; a link is one when it leads to a file of this run."""
        return list_files(self.results, within=self.path)

    def result(self, name: str) -> Path:
        """Return a file among the results. Raises NotFound, for a link to a file outside of the run, too."""
        path = find_file(self.results, name, within=self.path)
        if path is None or not (path.is_file() or file_problem(path, self.path)):
            raise NotFound(f"there is no result {name[:200]!r}; the list of results names them all")
        if problem := file_problem(path, self.path):
            raise NotFound(f"result {name[:200]!r} {problem}")
        return path


def list_files(folder: Path, *, within: Path | None = None) -> list[FileFacts]:
    """Return the files below a folder by name, at most 10,000.

    Links are resolved; with `within` only if they lead below that folder. A file that cannot be read is listed with its
    problem.
    """
    found = []
    for name, path in _walk(folder, within):
        try:
            facts = path.lstat()
            problem = file_problem(path, within)
            if not problem:
                facts = path.stat()
        except OSError:
            continue  # a program has just removed it
        if problem or stat.S_ISREG(facts.st_mode):
            found.append(FileFacts(name, facts.st_size, facts.st_mtime, problem=problem))
    return sorted(found, key=lambda file: file.name)


def find_file(folder: Path, name: str, *, within: Path | None = None) -> Path | None:
    """Return the file that a listing of a folder gives this name, or None."""
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        return None
    path = folder.joinpath(*parts)
    try:
        if path.is_file() or path.is_symlink():
            return path
    except OSError:  # a part of the name is too long
        return None
    # the name on the disk may be in another encoding, or have its accents apart, as a Mac's
    wanted = unicodedata.normalize("NFC", name)
    found = [(shown, path) for shown, path in _walk(folder, within) if unicodedata.normalize("NFC", shown) == wanted]
    found.sort(key=lambda entry: entry[0] != name)
    return next((path for _, path in found if not path.is_dir()), None)


def file_problem(path: Path, within: Path | None = None) -> str:
    """Return why a file cannot be read; "" if it can."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            return "is no file, but a pipe, a socket or a device; write its content into a file"
        if within is not None and not path.resolve(strict=True).is_relative_to(within.resolve()):
            return "is a link to a file outside of the run's folder; let the step copy the file"
    except FileNotFoundError:
        return f"is a link to {_target(path)}, which is not there; fetch it (git annex get, dvc pull), or copy the file"
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            return f"cannot be read: {error.strerror}"
        return "is a link that leads to itself; replace it by the file"
    return ""


def _target(path: Path) -> str:
    try:
        return repr(readable(os.readlink(path))[:200])
    except OSError:
        return "a file"


def _walk(folder: Path, within: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder with their names; each folder once, even if several links lead to it."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    count = 0
    while waiting:
        here = waiting.pop()
        try:
            facts = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            continue  # it may not be read, or was just removed
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        for entry in entries:
            path = here / entry.name
            if _is_folder(entry) and not (entry.is_symlink() and file_problem(path, within)):
                waiting.append(path)
                continue
            count += 1
            if count > _FILES:
                return
            yield readable(path.relative_to(folder).as_posix()), path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_range(path: Path, start: int, limit: int) -> tuple[bytes, int, int]:
    """Return bytes of a file, the position of the first, and the file's size; a negative start counts from the end."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(size + start, 0) if start < 0 else min(start, size)
            file.seek(start)
            return file.read(limit), start, size
    except FileNotFoundError:
        return b"", 0, 0
