"""A real `tidewire` process for a test: started in a folder of its own, on a free port, and always ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from helpers.ending import end_process

T = TypeVar("T")


#: -P: as the installed command, which does not look for modules in the current folder.
COMMAND = (sys.executable, "-P", "-m", "tidewire")


def wait_for(condition: Callable[[], T], *, seconds: float = 30.0, what: str = "the condition") -> T:
    """Return what the condition returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)
    return value


def environment(**more: str) -> dict[str, str]:
    """Return an environment without settings but for those given."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")} | more


def tidewire(*arguments: str, folder: Path, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


class LiveServer:
    """`with LiveServer(folder, "--workers", "2") as server: server.get("/healthz")`."""

    def __init__(self, folder: Path, *arguments: str, command: tuple[str, ...] = ("serve",), **variables: str) -> None:
        self.folder = folder
        self._arguments = (*command, "--port", "0", *arguments)
        self._variables = variables
        self.url = ""

    def __enter__(self) -> LiveServer:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(end_process)

    def kill(self) -> None:
        """End it and its workers at once; harmless when it has ended."""
        self._end(subprocess.Popen.kill)

    def _end(self, end_server: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self.process.poll() is None:
            workers = self.workers()
            end_server(self.process)
            self.process.wait()
            for worker in workers:
                end(worker, signal.SIGKILL)

    def start(self) -> None:
        with (self.folder / "out.txt").open("w") as out, (self.folder / "err.txt").open("w") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *self._arguments],
                cwd=self.folder,
                env=environment(**self._variables),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        wait_for(
            lambda: self.process.poll() is not None or "http" in self.out, seconds=90, what="the line with the URL"
        )
        assert self.process.poll() is None, self.err
        found = re.search(r"https?://\S+", self.out)
        assert found is not None
        self.url = found[0]

    @property
    def out(self) -> str:
        return (self.folder / "out.txt").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err.txt").read_text()

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def get(self, path: str, **options: object) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, **options)  # type: ignore[arg-type]

    def post(self, path: str, **options: object) -> httpx.Response:
        return httpx.post(self.url + path, timeout=10, **options)  # type: ignore[arg-type]

    def workers(self) -> list[int]:
        """Return the worker processes that are there now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []

    def stop(self, seconds: float) -> int:
        """Send SIGTERM, and return the exit code; it must come in time."""
        self.process.terminate()
        return self.process.wait(seconds)


def end(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a process that the test started, which may have ended."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass
