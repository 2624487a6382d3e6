"""How a test ends a server that it is done with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

#: Set in the environment of all processes while coverage is measured.
_MEASURED = "COVERAGE_PROCESS_CONFIG"


def end_process(process: subprocess.Popen[Any]) -> None:
    """Kill a process. Where coverage is measured, it may end by itself first: a killed one writes no figures."""
    if process.poll() is None and _MEASURED in os.environ:
        for number in (signal.SIGTERM, signal.SIGINT):  # the second one cuts a drain short
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
                return
    process.kill()
    process.wait()
