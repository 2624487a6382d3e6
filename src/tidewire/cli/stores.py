"""Stores that a command only reads: one that does not exist is not created."""

from __future__ import annotations

from tidewire.errors import ConfigurationError

__all__ = ("check_there",)


def check_there(url: str) -> None:
    """Raise ConfigurationError for a SQLite file that does not exist, because opening it would create it."""
    if not url.startswith("sqlite:"):
        return
    from tidewire.backends import sqlite_path

    path = sqlite_path(url)
    if not path.exists():
        raise ConfigurationError(
            f"{path} does not exist, and looking at it does not make it; start a server with this broker, "
            "run tidewire migrate, or name another with --broker, as that of `tidewire run`: --broker sqlite:///chat.db"
        )
