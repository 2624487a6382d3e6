"""The table of stores: url → broker and presence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from tidewire.backends.base import Broker, Presence
from tidewire.backends.checked import CheckedBroker, CheckedPresence
from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.errors import ConfigurationError
from tidewire.limits import Limits
from tidewire.support.shown_value import kind_of, shown_url

__all__ = ("is_local", "open_backend", "shared_name", "sqlite_path")


def open_backend(url: str, limits: Limits) -> tuple[Broker, Presence]:
    """Make the broker and the presence of a URL; nothing is opened before their `start`.

    Raises ConfigurationError for a URL that names no store.
    """
    if not isinstance(url, str):
        raise ConfigurationError(
            f"the URL of a store is {kind_of(url)}; write one, as sqlite:///chat.db "
            "(is the variable set that it comes from?)"
        )
    broker, presence = _open(url, limits)
    return CheckedBroker(broker), CheckedPresence(presence)


def _open(url: str, limits: Limits) -> tuple[Broker, Presence]:
    scheme = _split(url).scheme
    if scheme == "memory":
        return MemoryBroker(limits=limits), MemoryPresence()
    driver = scheme.partition("+")[0]
    if scheme == "sqlite":
        from tidewire.backends.sqlite import SqliteBroker, SqlitePresence

        path = sqlite_path(url)
        return SqliteBroker(path, limits, name=_sqlite_name(url)), SqlitePresence(path)
    if driver in ("redis", "rediss", "unix"):
        with _driver("redis"):
            from tidewire.backends.redis import open_redis
        return open_redis(url, limits)
    if scheme in ("nats", "tls"):
        with _driver("nats"):
            from tidewire.backends.nats import open_nats
        return open_nats(url, limits)
    if driver in ("postgresql", "postgres"):
        with _driver("postgres"):
            from tidewire.backends.postgres import open_postgres
        return open_postgres(url, limits)
    if driver == "sqlite":
        raise ConfigurationError(
            f"broker {scheme!r} names a driver of SQLAlchemy; write sqlite:///chat.db, as it is ours"
        )
    named = repr(scheme) if scheme else shown_url(url)
    raise ConfigurationError(
        f"broker {named} is not known; write memory://, sqlite:///chat.db (three slashes: a path from here), "
        "redis://host:6379, postgresql://user@host/database or nats://host:4222"
    )


def is_local(url: str) -> bool:
    """Return whether a store has nodes of one machine only."""
    return _split(url).scheme in ("memory", "sqlite")


def shared_name(url: str) -> str:
    """Return a name of a store that is the same for all processes of this machine."""
    return f"sqlite {sqlite_path(url).resolve()}" if _split(url).scheme == "sqlite" else url


@contextmanager
def _driver(extra: str) -> Iterator[None]:
    """Raise ConfigurationError with the command that installs a store's driver, if it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{extra}:// needs the Python package {error.name!r}, which is not installed; "
            f"run: pip install 'tidewire[{extra}]'"
        ) from None


def sqlite_path(url: str) -> Path:
    """Return the file of a `sqlite:///relative.db` or `sqlite:////absolute.db` URL.

    Of a symbolic link it is the target: the files beside it are the same by any of its names.

    Raises ConfigurationError when it names none.
    """
    name = _sqlite_name(url)
    return Path(os.path.realpath(name)) if os.path.islink(name) else name


def _sqlite_name(url: str) -> Path:
    parts = _split(url)
    path = unquote(parts.path).removeprefix("/")
    if path.removeprefix("file:").startswith(":memory:") or "mode=memory" in parts.query:
        raise ConfigurationError(f"broker {_shown(url)!r} is SQLite without a file; write memory://")
    if parts.netloc or not path:
        raise ConfigurationError(
            f"broker {_shown(url)!r} names no file; write sqlite:///chat.db, or sqlite:////var/chat.db from the root"
        )
    return Path(path)


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; raises ConfigurationError, which shows none: any may be of a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or (parts.netloc and "@" in parts.path + parts.query + parts.fragment):
        raise ConfigurationError(
            "the broker's URL cannot be read; write memory://, sqlite:///chat.db or redis://user:password@host:6379, "
            "and characters such as @ : / ? # [ in a password or an option as %40 %3A %2F %3F %23 %5B"
        )
    return parts


def _shown(url: str) -> str:
    """Return the URL without the part that may have a password."""
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
