"""Servers of stores as processes of their own, on free ports and in temporary folders; each test ends its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from contract.serving import free_port, until
from requirements import require

__all__ = (
    "Daemon",
    "Postgres",
    "postgres_database",
    "start_nats",
    "start_pgbouncer",
    "start_postgres",
    "start_redis",
    "store_url",
)

_START_SECONDS = 15.0
_STOP_SECONDS = 15.0


class Daemon:
    """One server process; it may be frozen, killed, and started again on the same port and folder."""

    def __init__(self, command: list[str], folder: Path, port: int, answers: Callable[[], bool] | None = None) -> None:
        self.folder = folder
        self.port = port
        self._command = command
        self._answers = answers or (lambda: accepts(port))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self._is_up, _START_SECONDS, what=f"{self._command[0]} answers on port {self.port}")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text(errors="replace")
        return self._answers()

    def freeze(self) -> None:
        """Let it hang: connections are accepted, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(_STOP_SECONDS)

    def stop(self) -> None:
        """End it as its operator does."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(_STOP_SECONDS)

    @contextlib.contextmanager
    def running(self) -> Iterator[Daemon]:
        """Run it for as long as the block lasts."""
        try:
            self.start()
            yield self
        finally:
            self.kill()


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether somebody listens on a port."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.settimeout(1)
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def start_redis(
    folder: Path, *options: str, port: int = 0, is_sentinel: bool = False
) -> contextlib.AbstractContextManager[Daemon]:
    """Run redis-server: without options it keeps nothing on disk. A Sentinel's options are its configuration."""
    program = shutil.which("redis-server")
    require(program, "apt-get install redis-server")
    assert program is not None
    port = port or free_port()
    configuration = folder / "redis.conf"
    folder.mkdir(parents=True, exist_ok=True)
    if is_sentinel:
        configuration.write_text("".join(f"{option}\n" for option in options))
        command = [program, str(configuration), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"]
    else:
        common = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--logfile", ""]
        command = [program, *common, *options]
    return Daemon(command, folder, port, lambda: _redis_answers(port)).running()


# PostgreSQL: it must not run as root, so its folder is one that its own user can reach.

_numbers = itertools.count(1)


def _postgres_programs() -> Path:
    """Return the folder of the programs, which Debian has not in the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    program = found[-1] if found else shutil.which("postgres")
    require(program, "apt-get install postgresql")
    return Path(str(program)).parent


def _as_postgres() -> list[str]:
    """Return what runs a command as another user than root."""
    if os.geteuid() != 0:
        return []
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


def _postgres_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tidewire-postgres-"))
    prefix = _as_postgres()
    if prefix:
        os.chown(folder, int(prefix[1].partition("=")[2]), int(prefix[2].partition("=")[2]))
    return folder


class Postgres(Daemon):
    """One PostgreSQL server with all its processes; `fresh` puts a new, empty cluster in the place of its data."""

    def __init__(self, *settings: str) -> None:
        self.programs = _postgres_programs()
        folder, port = _postgres_folder(), free_port()
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", *settings]
        command = [*_as_postgres(), str(self.programs / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
        for option in options:
            command += ["-c", option]
        super().__init__(command, folder, port, self._is_ready)
        self.fresh()

    def _is_ready(self) -> bool:
        ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def fresh(self) -> None:
        """Make an empty cluster; the server must not run."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        command = [str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust"]
        quick = ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run([*_as_postgres(), *command, *quick], check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def copy(self, source: str, target: str) -> None:
        """Copy a folder of this server's, as a backup does; the server must not run."""
        shutil.rmtree(self.folder / target, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.folder / source), str(self.folder / target)], check=True)

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make a new database, and return its URL."""
        name = f"test{next(_numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, *statements: str, url: str = "") -> str:
        """Run statements one after the other, and return what they print."""
        command = [str(self.programs / "psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url or self.url()]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()

    def _processes(self) -> list[int]:
        """Return the server's processes, the first one first."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            processes = self._processes()
            self._signal(signal.SIGKILL)
            self.process.wait(_STOP_SECONDS)
            until(lambda: not any(_runs(process) for process in processes), what="all its processes have ended")
        self.process = None

    def stop(self) -> None:
        """End it as its operator does who does not wait for clients."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(_STOP_SECONDS)

    def remove(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def start_postgres(*settings: str) -> Iterator[Postgres]:
    """Run a PostgreSQL server of the test's own, with settings such as "synchronous_commit=off"."""
    server = Postgres(*settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def start_pgbouncer(server: Postgres, mode: str) -> contextlib.AbstractContextManager[Daemon]:
    """Run PgBouncer in front of a PostgreSQL server, in a pool mode; as PostgreSQL, it must not run as root."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    require(program, "apt-get install pgbouncer")
    assert program is not None
    folder, port = _postgres_folder(), free_port()
    file = folder / "pgbouncer.ini"
    file.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=postgres\n[pgbouncer]\npool_mode = {mode}\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
    )
    return Daemon([*_as_postgres(), program, str(file)], folder, port).running()


@functools.cache
def _shared_postgres() -> Postgres:
    server = Postgres()
    atexit.register(server.remove)
    server.start()
    return server


def postgres_database() -> str:
    """Return the URL of a new database on a server that the tests of this process share."""
    return _shared_postgres().database()


@contextlib.contextmanager
def store_url(kind: str, folder: Path) -> Iterator[str]:
    """Run a store of a kind, and give its URL."""
    if kind in ("redis", "nats"):
        with (start_redis if kind == "redis" else start_nats)(folder / kind) as daemon:
            yield f"{kind}://127.0.0.1:{daemon.port}"
    elif kind == "postgresql":
        yield postgres_database()
    else:
        yield "memory://" if kind == "memory" else f"sqlite:///{folder}/store.db"


def start_nats(
    folder: Path, *, jetstream: str | None = "", configuration: str = "", host: str = "127.0.0.1"
) -> contextlib.AbstractContextManager[Daemon]:
    """Run nats-server with JetStream in a folder of its own (None: without it), and with so much more configuration."""
    program = shutil.which("nats-server")
    require(program, "apt-get install nats-server")
    assert program is not None
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nats.conf"
    block = "" if jetstream is None else f'jetstream {{ store_dir: "{folder / "data"}", {jetstream} }}'
    file.write_text(f"listen: {host}:{port}\n{block}\n{configuration}\n")
    return Daemon([program, "-c", str(file)], folder, port, lambda: accepts(port, host)).running()
