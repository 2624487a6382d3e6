"""The servers that ours are compared with: how each is started."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from bench.load import OUT
from bench.subjects import ALL_WORKS, Subject, uvicorn, write_config

__all__ = ("PEERS",)

HERE = Path(__file__).resolve().parent
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class Tutorial(Subject):
    """The FastAPI tutorial's ConnectionManager on plain uvicorn."""

    name = "tutorial"
    works = frozenset({"fanout", "few", "connect", "arrive", "idle", "curves"})
    path = "/ws/{room}"

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
    works = frozenset({"fanout", "few", "low", "connect", "arrive", "idle", "curves"})
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
        return [node, str(HERE / "ws_server.mjs"), str(port), str(OUT / "node_modules"), str(ping_seconds)], {
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
        config = write_config(HERE / "nchan.conf", folder / "nginx.conf", values)
        return [shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(config)], {}


class Nats(Subject):
    """A NATS server over WebSocket, on one core."""

    name = "nats-server"
    publishers = (1, 16, 256)
    works = frozenset(ALL_WORKS) - {"frozen", "echo", "members"}
    path = "/"
    dialect = "nats"

    def missing(self) -> str | None:
        return None if shutil.which("nats-server") else "apt-get install nats-server"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        values = {"port": str(port), "ping_seconds": str(ping_seconds)}
        config = write_config(HERE / "nats.conf", OUT / "nats.conf", values)
        return [shutil.which("nats-server") or "nats-server", "-c", str(config)], {"GOMAXPROCS": "1"}


class UvicornEcho(Subject):
    """An echo on uvicorn, with the WebSocket class of its choice or another: bare ASGI, or FastAPI's."""

    works = frozenset({"echo", "low", "connect", "arrive"})
    path = "/ws"

    def __init__(self, name: str, app: str, *more: str) -> None:
        self.name, self._app, self._more = name, app, more
        if more:
            self.works = frozenset({"echo"})

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        return uvicorn(self._app, port, ping_seconds, *self._more), {}


class Granian(Subject):
    """The bare ASGI echo on granian (Rust)."""

    name = "granian"
    has_master = True
    works = frozenset({"echo", "low", "connect", "arrive"})
    path = "/ws"

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("granian") else "pip install granian"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), "--loop", "uvloop"]
        return [*command, "--no-log", "--no-access-log", "--backlog", "4096", "bench.apps.bare:app"], {}


class Script(Subject):
    """A library with a server of its own, whose small application is a script in this folder."""

    works = frozenset({"few", "low", "connect", "arrive"})
    path = "/{room}"

    def __init__(self, name: str) -> None:
        self.name, self._library = name, name.removesuffix("-echo")
        if name != self._library:
            self.works, self.path = frozenset({"echo"}), "/"

    def missing(self) -> str | None:
        return None if importlib.util.find_spec(self._library) else f"pip install {self._library}"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, str(HERE / f"{self._library}_app.py"), str(port)], {}


class GoCentrifuge(Subject):
    """A Go server on the Centrifuge library of Debian's packages, on one core; `make bench-peers` builds it."""

    works = frozenset({"fanout", "paced", "few", "low", "connect", "arrive"})
    path = "/connection/websocket"
    dialect = "centrifuge-first"

    def __init__(self, *, members: bool = False) -> None:
        self.name = "go-centrifuge-members" if members else "go-centrifuge"
        self._members = members
        if members:
            self.works = frozenset({"members"})

    def missing(self) -> str | None:
        return None if (OUT / "centrifuge").exists() else "make bench-peers"

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        words = ["members"] if self._members else []
        return [str(OUT / "centrifuge"), str(port), *words], {"GOMAXPROCS": "1"}


PEERS: tuple[Subject, ...] = (
    Nats(),
    Nchan(),
    NodeWs(),
    SocketIO(),
    Tutorial(),
    UvicornEcho("uvicorn-bare", "bench.apps.bare:app"),
    UvicornEcho("uvicorn-fastapi", "bench.peers.echo:app"),
    UvicornEcho("uvicorn-wsproto", "bench.apps.bare:app", "--ws", "wsproto"),
    UvicornEcho("uvicorn-websockets", "bench.apps.bare:app", "--ws", "websockets"),
    Granian(),
    Script("socketify"),
    Script("picows"),
    Script("socketify-echo"),
    Script("picows-echo"),
    GoCentrifuge(),
    GoCentrifuge(members=True),
)
