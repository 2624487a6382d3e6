"""Servers with several workers on each shared store, for the tests of faults."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from contract.conftest import FAST
from contract.serving import Server
from helpers.stores import Daemon, start_nats, start_postgres, start_redis

__all__ = ("SECRET_CONFIG", "STORES", "Store", "serving", "store")

#: Redis that loses nothing when it is killed.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
SECRET_CONFIG = """
[client.token]
hmac_secret_key = "a secret that is only for tests, 32 bytes"
[http_api]
key = "key"
[[channel.namespaces]]
name = "fault"
presence = true
history_size = 20000
history_ttl = "1h"
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_client = true
"""


class Store(NamedTuple):
    """A shared store."""

    url: str
    daemon: Daemon | None
    #: It counts the publications of all channels in one row.
    has_holes: bool = False


@contextlib.contextmanager
def _sqlite(folder: Path, host: str) -> Iterator[Store]:
    folder.mkdir(exist_ok=True)
    yield Store(f"sqlite:///{folder / 'faults.db'}", None)


@contextlib.contextmanager
def _redis(folder: Path, host: str) -> Iterator[Store]:
    addresses = " ".join({"127.0.0.1", host})
    with start_redis(folder, *DURABLE, "--bind", addresses, "--protected-mode", "no") as daemon:
        yield Store(f"redis://{host}:{daemon.port}", daemon)


@contextlib.contextmanager
def _postgres(folder: Path, host: str) -> Iterator[Store]:
    with start_postgres("listen_addresses=" + ",".join({"127.0.0.1", host})) as daemon:
        if host != "127.0.0.1":
            with (daemon.folder / "data" / "pg_hba.conf").open("a") as rights:
                rights.write(f"host all all {host}/24 trust\n")
            daemon.sql("SELECT pg_reload_conf()")
        yield Store(daemon.url().replace("127.0.0.1", host), daemon)


@contextlib.contextmanager
def _nats(folder: Path, host: str) -> Iterator[Store]:
    with start_nats(folder, host=host) as daemon:
        yield Store(f"nats://{host}:{daemon.port}", daemon, has_holes=True)


STORES: dict[str, Callable[[Path, str], contextlib.AbstractContextManager[Store]]] = {
    "redis": _redis,
    "postgres": _postgres,
    "nats": _nats,
    "sqlite": _sqlite,
}


def store(name: str, folder: Path, host: str = "127.0.0.1") -> contextlib.AbstractContextManager[Store]:
    """Start a store in a folder of its own; `host`: an address of this machine where it is reached."""
    return STORES[name](folder / name, host)


@contextlib.contextmanager
def serving(
    folder: Path, url: str, *arguments: str, workers: int = 2, limits: dict[str, float] | None = None, **options: Any
) -> Iterator[Server]:
    """Run a server whose clients may miss much and still recover."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tidewire.toml").write_text(SECRET_CONFIG)
    generous = {"history_messages": 20_000, **FAST, **(limits or {})}
    with Server(folder, *arguments, broker=url, workers=workers, limits=generous, **options).running() as server:
        yield server
