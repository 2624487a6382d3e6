"""The folder beside a database in which its processes keep their locks and sockets."""

from __future__ import annotations

from pathlib import Path

__all__ = ("node_folder",)


def node_folder(path: Path) -> Path:
    """Return the folder of a database; it may be removed when no process uses the database."""
    return path.with_name(f"{path.name}-nodes")
