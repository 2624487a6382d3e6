"""The servers under test: how each is started, and how the generator speaks to it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load import OUT
from bench.processes import Running, free_port, running

__all__ = (
    "ALL_WORKS",
    "Nats",
    "Nchan",
    "NodeWs",
    "Ours",
    "OursCentrifuge",
    "SocketIO",
    "Subject",
    "Tutorial",
    "all_subjects",
)

ALL_WORKS = ("paced", "rooms", "fanout", "connect", "frozen", "idle", "big", "curves")
PEERS = Path(__file__).resolve().parent / "peers"
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class Subject(ABC):
    """One server under test."""

    #: What stands in the tables and names its files.
    name: str
    #: The paths to subscribe and publish at; without the second, subscribers publish on their own connection.
    path: str
    publish_path: str | None = None
    dialect = "plain"
    #: The process that is started is a master, and its children serve.
    has_master = False
    #: In which works it takes part: those that the table needs, so that the suite ends in time.
    works: frozenset[str] = frozenset({"fanout", "curves"})
    #: How many connections publish in the fan-out work; the first is used where only one number can be.
    publishers: tuple[int, ...] = (1, 16)

    @abstractmethod
    def missing(self) -> str | None:
        """Return how to install what is missing, or None."""

    @abstractmethod
    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that run it."""

    @contextmanager
    def serve(self, *, ping_seconds: int = 25) -> Iterator[Running]:
        """Run the server for as long as the block lasts."""
        port = free_port()
        command, environment = self.command(port, ping_seconds)
        with running(self.name, port, command, environment, has_master=self.has_master) as server:
            yield server

    def arguments(self, server: Running) -> dict[str, Any]:
        """Return the generator's options for this server."""
        publish = {"publish-path": self.publish_path} if self.publish_path else {}
        pids = ",".join(str(pid) for pid in server.pids)
        return {"port": server.port, "path": self.path, "dialect": self.dialect, "pids": pids, **publish}


def uvicorn(app: str, port: int, ping_seconds: int, *more: str) -> list[str]:
    """Return the command of a well configured uvicorn: uvloop, httptools, no compression, no access log."""
    options = {
        "--port": str(port),
        "--loop": "uvloop",
        "--http": "httptools",
        "--ws-per-message-deflate": "false",
        "--ws-ping-interval": str(ping_seconds),
        "--backlog": "4096",
        "--log-level": "warning",
    }
    return [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        *(word for pair in options.items() for word in pair),
        "--no-access-log",
        *more,
    ]


class Ours(Subject):
    """Our server, with an application of ours: a served protocol, or a FastAPI endpoint of the library."""

    def __init__(self, kind: str, store: str) -> None:
        self.works = frozenset(ALL_WORKS if store == "memory" else {"fanout", "paced", "curves"})
        # A commit takes milliseconds, and a connection has one command in flight: one publisher measures the disk.
        self.publishers = (1, 16, 256) if store == "memory" else (256, 16)
        self.name = f"ours-{kind}-{store}"
        self.path = f"/{kind}/{{room}}"
        self._store = store

    def missing(self) -> str | None:
        return None

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        url = "memory://" if self._store == "memory" else f"sqlite:///{self._database()}"
        command = [sys.executable, "-m", "tidewire", "run", "bench.apps.ours:app", "--port", str(port)]
        command += ["--limit", f"ping_seconds={ping_seconds}"]
        return command, {"BENCH_URL": url}

    def _database(self) -> Path:
        """A file that does not exist yet, on the disk that holds this tree."""
        folder = OUT / "sqlite"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder / "bench.db"


class OursCentrifuge(Ours):
    """Our server with clients of the Centrifuge protocol, in one of its encodings."""

    def __init__(self, encoding: str, store: str = "memory") -> None:
        super().__init__(encoding, store)
        self.works = frozenset({"fanout", "paced"})
        self.dialect = f"centrifuge-{encoding}"
        self.path = f"/connection/websocket?cf_protocol={encoding}"


class Tutorial(Subject):
    """The FastAPI tutorial's ConnectionManager on plain uvicorn."""

    name = "tutorial"
    works = frozenset({"fanout", "connect", "idle", "curves"})
    path = "/ws/{room}"

    def missing(self) -> str | None:
        return None

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        return uvicorn("bench.peers.tutorial:app", port, ping_seconds), {}


class SocketIO(Subject):
    """python-socketio on uvicorn."""

    name = "python-socketio"
    publishers = (1,)
    path = "/socket.io/?EIO=4&transport=websocket&room={room}"
    dialect = "socketio"

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("socketio") else "pip install python-socketio"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        return uvicorn("bench.peers.socketio_app:app", port, ping_seconds), {"BENCH_PING_SECONDS": str(ping_seconds)}


class NodeWs(Subject):
    """Node with the package `ws`, which is installed into bench/out at first use."""

    name = "node-ws"
    works = frozenset({"fanout", "connect", "idle", "curves"})
    path = "/{room}"

    def missing(self) -> str | None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            return "apt-get install nodejs npm"
        if not (OUT / "node_modules" / "ws").is_dir():
            OUT.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["npm", "install", "--silent", "--no-save", "--prefix", str(OUT), "ws@8"],
                capture_output=True,
                check=False,
                timeout=120,
            )
            if done.returncode:
                return f"npm install --prefix {OUT.name} ws (it failed here)"
        return None

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        node = shutil.which("node") or "node"
        return [node, str(PEERS / "ws_server.mjs"), str(port), str(OUT / "node_modules"), str(ping_seconds)], {
            "NODE_ENV": "production"
        }


class Nchan(Subject):
    """nginx with the nchan module, one worker."""

    name = "nchan"
    has_master = True
    works = frozenset({"fanout", "paced", "idle", "curves"})
    publishers = (16, 1)
    path = "/sub/{room}"
    publish_path = "/pub/{room}"

    def missing(self) -> str | None:
        installed = shutil.which("nginx") is not None and NCHAN_MODULE.exists()
        return None if installed else "apt-get install nginx-light libnginx-mod-nchan"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        folder = OUT / "nchan"
        folder.mkdir(parents=True, exist_ok=True)
        values = {"module": str(NCHAN_MODULE), "port": str(port), "ping_seconds": str(ping_seconds)}
        config = write_config(PEERS / "nchan.conf", folder / "nginx.conf", values)
        return [shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(config)], {}


class Nats(Subject):
    """A NATS server over WebSocket, on one core."""

    name = "nats-server"
    publishers = (1, 16, 256)
    works = frozenset(ALL_WORKS) - {"frozen"}
    path = "/"
    dialect = "nats"

    def missing(self) -> str | None:
        return None if shutil.which("nats-server") else "apt-get install nats-server"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        values = {"port": str(port), "ping_seconds": str(ping_seconds)}
        config = write_config(PEERS / "nats.conf", OUT / "nats.conf", values)
        return [shutil.which("nats-server") or "nats-server", "-c", str(config)], {"GOMAXPROCS": "1"}


def write_config(source: Path, target: Path, values: dict[str, str]) -> Path:
    """Fill the marks of a configuration file, `@name@`."""
    text = source.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    target.write_text(text)
    return target


def all_subjects() -> list[Subject]:
    """Return every server of the suite, ours first."""
    ours = [Ours("served", "memory"), Ours("endpoint", "memory"), Ours("served", "sqlite")]
    ours += [OursCentrifuge("json"), OursCentrifuge("protobuf"), OursCentrifuge("json", "sqlite")]
    return [*ours, Nats(), Nchan(), NodeWs(), SocketIO(), Tutorial()]
