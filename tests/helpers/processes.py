"""Nodes of a store as processes of their own (worker.py), which tests start, listen to and kill."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ("WORKER", "told", "worker")

WORKER = Path(__file__).with_name("worker.py")


@contextlib.contextmanager
def worker(url: str, mode: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process on the store, which is ready when this returns."""
    command = [sys.executable, "-W", "ignore", str(WORKER), url, mode, json.dumps(options)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == '"ready"\n'
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def told(process: subprocess.Popen[str]) -> list[Any]:
    """Return what a process that was killed has told; what the kill cut in the middle is left out."""
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found
