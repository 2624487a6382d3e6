"""Starts a server on its core, waits until it listens, and ends it whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from bench.load import OUT, on_core

__all__ = ("Running", "ServerError", "free_port", "running")

SERVER_CORE = 0


class ServerError(Exception):
    """A server did not start; the text has what it printed."""


class Running(msgspec.Struct, frozen=True):
    """A server that listens: its port, and the processes that serve."""

    port: int
    pids: tuple[int, ...]


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    name: str,
    port: int,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    has_master: bool = False,
    ready: str = "",
) -> Iterator[Running]:
    """Run a server for as long as the block lasts; raises ServerError when it does not listen within 15 s.

    With `has_master`, it is the children of the process that serve; they do when the process has printed `ready`.
    """
    log = OUT / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            cwd=OUT.parent.parent,
            start_new_session=True,
            preexec_fn=on_core(SERVER_CORE),
        )
    try:
        _wait_until_listening(process, port, log, ready)
        yield Running(port, _wait_for_children(process.pid) if has_master else (process.pid,))
    finally:
        _end(process)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path, ready: str) -> None:
    limit = time.monotonic() + 15
    while time.monotonic() < limit and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0 and ready in log.read_text(errors="replace"):
                return
        time.sleep(0.05)
    raise ServerError(f"{log.stem} does not listen on port {port}: {log.read_text(errors='replace')[-2000:]}")


def _children(pid: int) -> tuple[int, ...]:
    return tuple(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _wait_for_children(pid: int) -> tuple[int, ...]:
    """A master listens before it has forked."""
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        children = _children(pid)
        if children:
            return children
        time.sleep(0.02)
    raise ServerError(f"process {pid} has no worker after 5 s")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    children = _children(process.pid)
    process.terminate()
    try:
        process.wait(4)
    except subprocess.TimeoutExpired:
        process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait()
