"""Our application for clients of the Centrifuge protocol; `BENCH_URL` names the store, limits are out of the way.

With `BENCH_UNADMITTED` newcomers are not admitted a few at a time: each begins as it comes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from fastapi import FastAPI

from tidewire import Hub, Limits
from tidewire.channel_options import ChannelOptions
from tidewire.rules.base import Identity
from tidewire.support.admission import Admission


def begin(admission: Admission, step: Callable[[], None], limit: int) -> bool:
    """Start a step of a newcomer now, in whatever turn."""
    step()
    return True


if os.environ.get("BENCH_UNADMITTED"):
    sys.setrecursionlimit(100_000)  # to accept a connection begins with the next one
    Admission.start = begin  # type: ignore[method-assign]

limits = Limits(rate=1e9, burst=1_000_000_000, connections=20_000)
hub = Hub(
    os.environ.get("BENCH_URL", "memory://"), limits=limits, default=ChannelOptions(history_size=500, publish=True)
)
app = FastAPI(lifespan=hub.lifespan)


async def anybody() -> Identity:
    """Let everybody connect."""
    return Identity()


app.include_router(hub.client_router(user=anybody))
