"""The table of stores: url → broker and presence."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.broker import Broker
from tidewire.errors import ConfigurationError
from tidewire.options import Limits
from tidewire.presence import Presence

__all__ = ("open_backend", "sqlite_path")


def open_backend(url: str, limits: Limits) -> tuple[Broker, Presence]:
    """Make the broker and the presence of a URL; nothing is opened before their `start`.

    Raises ConfigurationError for a URL that names no store.
    """
    scheme = _split(url).scheme
    if scheme == "memory":
        return MemoryBroker(), MemoryPresence()
    if scheme == "sqlite":
        from tidewire.backends.sqlite import SqliteBroker, SqlitePresence

        path = sqlite_path(url)
        return SqliteBroker(path, limits), SqlitePresence(path)
    raise ConfigurationError(
        f"broker {_shown(url)!r} is not known; write memory:// or sqlite:///chat.db (three slashes: a path from here)"
    )


def sqlite_path(url: str) -> Path:
    """Return the file of a `sqlite:///relative.db` or `sqlite:////absolute.db` URL.

    Raises ConfigurationError when it names none.
    """
    parts = _split(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or not path:
        raise ConfigurationError(
            f"broker {_shown(url)!r} names no file; write sqlite:///chat.db, or sqlite:////var/chat.db from the root"
        )
    return Path(path)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:  # it may hold a password, so it is not shown
        raise ConfigurationError(f"the broker's URL is none ({error}); write memory:// or sqlite:///chat.db") from None


def _shown(url: str) -> str:
    """Return the URL without what may be a password."""
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
