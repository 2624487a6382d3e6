"""Children of one process that are killed at random: forked, so that thousands cost little."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ("raise_and_kill",)


def raise_and_kill(child: Callable[[Callable[[], Any]], None], kills: int, seconds: float) -> None:
    """Fork so many children, one after the other, and kill each at a random time after it has called its argument.

    The process must have no threads; `child` never returns.
    """
    for _ in range(kills):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                random.seed()
                child(partial(os.write, writing, b"."))
            finally:
                os._exit(1)
        os.close(writing)
        is_ready = os.read(reading, 1) == b"."
        time.sleep(random.random() * seconds)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(reading)
        assert is_ready, "a child ended by itself"
        assert os.WTERMSIG(status) == signal.SIGKILL, f"a child ended by itself with {status}"
