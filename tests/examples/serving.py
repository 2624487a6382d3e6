"""A running example that a test can kill and start again on the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from contract.serving import free_port

__all__ = ("EXAMPLES", "Example")

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """One example in a folder of the test's own, under `tidewire run` or another command."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *options: str,
        broker: str = "",
        command: str = "tidewire run",
        application: str = "app:app",
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._command = [sys.executable, "-m", *command.split(), application, "--port", str(self.port), *options]
        path = os.pathsep.join([str(EXAMPLES / name), *filter(None, [os.environ.get("PYTHONPATH")])])
        given = {key: value for key, value in os.environ.items() if not key.startswith("TIDEWIRE_")}
        self._environment = {**given, "PYTHONPATH": path, "BROKER": broker or f"sqlite:///{folder}/example.db"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Example:
        """Start it, and return when it answers."""
        with (self.folder / "server.txt").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        limit = time.monotonic() + 40
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < limit, self.log()
            time.sleep(0.05)
        return self

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, as a power cut would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(20)

    def log(self) -> str:
        """Return what it has written."""
        return (self.folder / "server.txt").read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False
