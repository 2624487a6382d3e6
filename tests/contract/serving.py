"""A `tidewire` server as a process of its own, in a folder of its own, seen from outside."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import httpx

__all__ = ("Server", "free_port", "standing_still", "until")

T = TypeVar("T")

_START_SECONDS = 80.0
_numbers = itertools.count(1)


def until(condition: Callable[[], T], within: float = 10.0, *, what: str) -> T:
    """Return the condition's first true value; fails after the limit."""
    end = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.02)
    return value


#: Not seeded by Hypothesis: two processes of the suite would draw the same ports.
_ports = random.SystemRandom()


def free_port() -> int:
    """Return a port that nobody listens on now, and that no outgoing connection is given until the server has it."""
    while True:
        port = _ports.randrange(20_000, 32_000)  # below those that the kernel gives away
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class Server:
    """One server process; it may be killed and started again on the same port and folder."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        broker: str = "memory://",
        app: Path | None = None,
        workers: int = 1,
        limits: Mapping[str, float] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """`host`: where it is reached; `prefix`: the command that runs it, as `ip netns exec NAME`."""
        self.folder = folder
        self.host = host
        self.port = free_port()
        self.workers = workers
        self.log_file = folder / "server.log"
        command = "serve" if app is None else "run"
        what = ("--broker", broker) if app is None else (f"{app.stem}:app",)
        if app is not None:
            shutil.copy(app, folder)
        self._command = [*prefix, sys.executable, "-m", "tidewire", command, *what, "--port", str(self.port)]
        self._command += ["--workers", str(workers), *(("--host", host) if host != "127.0.0.1" else ()), *arguments]
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")}
        self._environment |= {f"TIDEWIRE_LIMITS__{name.upper()}": str(value) for name, value in (limits or {}).items()}
        self._environment |= environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._turns = itertools.count()
        self.http = httpx.Client(base_url=f"http://{host}:{self.port}", timeout=20.0)

    # The process.

    def start(self) -> None:
        """Start it, and return when every worker serves."""
        with self.log_file.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(lambda: self._has_announced(begin), _START_SECONDS, what="the server says where it serves")

    def _has_announced(self, begin: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log()}"
        return f":{self.port} · ".encode() in self.log_file.read_bytes()[begin:]

    def stop(self) -> None:
        """End it as a deploy does, and fail when it does not end in time."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise AssertionError(f"the server did not end within 20 s of SIGTERM:\n{self.log()}") from None

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is None:
            return
        workers = self.worker_pids()
        process, self.process = self.process, None
        process.kill()
        process.wait(10)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Run it for as long as the block lasts."""
        try:
            self.start()
            yield self
        finally:
            self.http.close()
            try:
                self.stop()
            finally:
                self.kill()

    def tidewire(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line in the server's folder."""
        command = [sys.executable, "-m", "tidewire", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=30, check=False
        )

    def worker_pids(self) -> list[int]:
        """Return the processes that serve, the oldest first."""
        assert self.process is not None
        if self.workers == 1:
            return [self.process.pid]
        pid = self.process.pid
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return []

    def resident(self) -> float:
        """Return the resident memory of all serving processes, in MiB."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.worker_pids()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1_048_576

    def log(self) -> str:
        """Return all that it has written."""
        return self.log_file.read_text(errors="replace")

    # What clients need.

    def url(self, path: str) -> str:
        """Return the WebSocket URL of a path."""
        return f"ws://{self.host}:{self.port}{path}"

    def sign_up(self, name: str = "", password: str = "a good password") -> tuple[str, str]:
        """Make an account, and return its name and its token."""
        name = name or f"user{next(_numbers)}"
        answer = self.http.post("/signup", json={"username": name, "password": password})
        assert answer.status_code == 201, answer.text
        return name, answer.json()["token"]

    def next_worker(self) -> int | None:
        """Return the worker whose turn it is to take a connection, so that two in a row are on two workers."""
        if self.workers == 1:
            return None
        pids = self.worker_pids()
        return pids[next(self._turns) % len(pids)]

    def dial(self, worker: int | None = None) -> socket.socket:
        """Open a TCP connection, one that this worker has accepted if it matters."""
        end = time.monotonic() + 30
        while time.monotonic() < end:  # workers take newcomers in turn; one that is starting takes none yet
            client = socket.create_connection((self.host, self.port), timeout=10)
            if worker is None or self._acceptor(client) == worker:
                client.setblocking(False)
                return client
            client.close()
            time.sleep(0.01)
        raise AssertionError(f"worker {worker} accepted no connection within 30 s; workers: {self.worker_pids()}")

    def _acceptor(self, client: socket.socket) -> int:
        """Return the worker that has accepted a connection; 0 when that does not show soon."""
        end = time.monotonic() + 1
        while time.monotonic() < end:
            inode = _inode_of_peer(client)
            pid = _holder(f"socket:[{inode}]", self.worker_pids()) if inode else 0
            if pid:
                return pid
        return 0


@contextlib.contextmanager
def standing_still(pids: list[int]) -> Iterator[None]:
    """Let processes stand still."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _inode_of_peer(client: socket.socket) -> str:
    ours = f":{client.getsockname()[1]:04X}"
    theirs = f":{client.getpeername()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(theirs) and fields[2].endswith(ours) and fields[9] != "0":
            return fields[9]
    return ""


def _holder(link: str, pids: list[int]) -> int:
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) == link:
                        return pid
    return 0
