"""Our servers under test: applications under `tidewire run`, and the ready server."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.load import OUT
from bench.subjects import ALL_WORKS, Subject

__all__ = ("OURS", "Ours", "Ready", "run")

_LARGE = frozenset(ALL_WORKS) - {"echo", "members"}
_LIMITS = ("rate=1e9", "burst=1000000000", "connections=20000")


def run(app: str, port: int, ping_seconds: int) -> list[str]:
    """Return the command that runs an application under our server."""
    command = [sys.executable, "-m", "tidewire", "run", app, "--port", str(port)]
    return [*command, "--limit", f"ping_seconds={ping_seconds}"]


class Ours(Subject):
    """Our server with an application of ours: `kind` names its path."""

    def __init__(self, kind: str, store: str = "memory", works: frozenset[str] = _LARGE) -> None:
        self.works = works if store == "memory" else works & {"fanout", "paced", "few", "curves"}
        # A commit takes milliseconds, and a connection has few commands in flight: one publisher measures the disk.
        self.publishers = (1, 16, 256) if store == "memory" else (256, 16)
        self.name = f"ours-{kind}-{store}"
        self.path = f"/{kind}/{{room}}"
        self._store = store

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        url = "memory://" if self._store == "memory" else f"sqlite:///{_fresh_folder(self.name)}/bench.db"
        return run("bench.apps.ours:app", port, ping_seconds), {"BENCH_URL": url}


class Centrifuge(Ours):
    """Our server with clients of the Centrifuge protocol, in one of its encodings."""

    def __init__(self, encoding: str, store: str = "memory", *, members: bool = False) -> None:
        super().__init__(encoding, store, frozenset({"fanout", "paced", "few", "low", "connect", "arrive"}))
        self.dialect = f"centrifuge-{encoding}"
        self.path = f"/connection/websocket?cf_protocol={encoding}"
        self._members = members
        if members:
            self.name, self.works = f"ours-{encoding}-members", frozenset({"members"})

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        command, environment = super().command(port, ping_seconds)
        return command, {**environment, "BENCH_MEMBERS": "1" if self._members else ""}


class Bare(Subject):
    """A bare ASGI application, or FastAPI's echo, under `tidewire run`."""

    works = frozenset({"echo", "low", "connect", "arrive"})
    path = "/ws"

    def __init__(self, name: str, app: str) -> None:
        self.name, self._app = name, app

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        return run(self._app, port, ping_seconds), {}


class Ready(Subject):
    """`tidewire serve` with its tutorial's echo, or for clients of the Centrifuge protocol that have no token."""

    works = frozenset({"echo", "low", "connect", "arrive"})

    def __init__(self, name: str, path: str, dialect: str) -> None:
        self.name, self.path, self.dialect = name, path, dialect
        if dialect != "prefixed":
            self.works = frozenset({"connect", "arrive"})

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        folder = _fresh_folder(self.name)
        settings = folder / "tidewire.toml"
        settings.write_text("[client]\ninsecure = true\n")
        options = {"--config": settings, "--broker": "memory://", "--accounts": folder / "accounts.db"}
        options |= {"--key-file": folder / "key", "--port": port}
        limits = (*_LIMITS, f"ping_seconds={ping_seconds}")
        words = [str(word) for pair in options.items() for word in pair]
        words += [word for limit in limits for word in ("--limit", limit)]
        return [sys.executable, "-m", "tidewire", "serve", *words], {}


def _fresh_folder(name: str) -> Path:
    """Return an empty folder for this server's files, on the disk that holds this tree."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


OURS: tuple[Subject, ...] = (
    Ours("served"),
    Ours("endpoint"),
    Ours("served", "sqlite"),
    Ours("endpoint", "sqlite", frozenset({"few"})),
    Centrifuge("json"),
    Centrifuge("protobuf"),
    Centrifuge("json", "sqlite"),
    Bare("ours-bare", "bench.apps.bare:app"),
    Bare("ours-fastapi", "bench.peers.echo:app"),
    Ready("ours-ready-ws", "/ws", "prefixed"),
    Ready("ours-ready-json", "/connection/websocket", "centrifuge-json"),
    Ours("members", works=frozenset({"members"})),
    Centrifuge("json", members=True),
)
