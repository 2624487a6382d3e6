"""The files of a store: the folder of its processes, and the access rights of the files beside the database."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ("make_file", "make_node_folder", "node_folder")


def node_folder(path: Path) -> Path:
    """Return the folder beside a database for locks and sockets; it may be removed while nobody uses the database."""
    return path.with_name(f"{path.name}-nodes")


def _mode(path: Path) -> int:
    """Return the permissions of a database; those of one that is not there are its owner's alone."""
    try:
        return path.stat().st_mode & 0o666
    except FileNotFoundError:
        return 0o600


def make_file(path: Path, *, like: Path) -> None:
    """Create a file if it is not there, and give it the permissions of a database; SQLite gives them to its log too.

    Raises OSError when it cannot be created.
    """
    mode = _mode(like)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    if path != like:
        _permit(path, mode)
        for suffix in ("-wal", "-shm"):
            _permit(path.with_name(path.name + suffix), mode)


def make_node_folder(path: Path) -> Path:
    """Create the folder beside a database if it is not there, for those who may use the database."""
    folder, mode = node_folder(path), _mode(path)
    mode |= (mode & 0o444) >> 2
    folder.mkdir(mode=mode, exist_ok=True)
    _permit(folder, mode)
    return folder


def _permit(path: Path, mode: int) -> None:
    with contextlib.suppress(OSError):  # another user's, or not there
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
