"""Servers of stores as processes of their own, on free ports and in temporary folders; each test ends its own."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from contract.serving import free_port, until
from requirements import require

__all__ = ("Daemon", "start_nats", "start_redis")

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


def accepts(port: int) -> bool:
    """Say whether somebody listens on a port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
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


def start_nats(folder: Path, *, port: int = 0, configuration: str = "") -> contextlib.AbstractContextManager[Daemon]:
    """Run nats-server with JetStream in a folder of its own; `configuration` is what its file says beside that."""
    program = shutil.which("nats-server")
    require(program, "apt-get install nats-server")
    assert program is not None
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nats.conf"
    file.write_text(f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: {folder / 'data'} }}\n{configuration}\n")
    return Daemon([program, "-c", str(file)], folder, port).running()
