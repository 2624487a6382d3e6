"""The application for `useChat`, with two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from contract.serving import free_port, until

__all__ = ("serving",)


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[str]:
    """Run the application with a store in a folder; yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "tidewire", "run", "app:app", "--port", str(port), "--workers", "2"]
    variables = os.environ | {"TIDEWIRE_TEST_STORE": f"sqlite:///{folder}/chat.db"} | environment
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=Path(__file__).parent, env=variables, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{url}/api/chat/nobody/stream").status_code == 204
        except httpx.TransportError:
            return False

    try:
        until(answers, 30, what="the application answers")
        yield url
    finally:
        server.terminate()
        server.wait(20)
