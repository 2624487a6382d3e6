"""Connects again after a loss: in random pauses that grow, so that a thousand nodes do not come back in one moment."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidewire.backends.shared.outage import Outage

__all__ = ("reconnect",)

logger = logging.getLogger("tidewire")

T = TypeVar("T")

#: Seconds of the first pause and of the longest one; each is a random part of that ("full jitter").
_FIRST, _LONGEST = 0.05, 0.8


async def reconnect(
    connect: Callable[[], Awaitable[T]],
    *,
    outage: Outage,
    owner: object,
    expected: tuple[type[Exception], ...],
    failed: Callable[[Exception], str],
) -> T:
    """Call `connect` until it succeeds, and return its result; `outage` is told of both ends for `owner`.

    `failed` takes note of each error and returns it in words. An error that is not `expected` is a fault of the program
    and logged as such, but it does not end the attempts.
    """
    longest = _FIRST
    while True:
        await asyncio.sleep(random.uniform(0, longest))
        longest = min(_LONGEST, 2 * longest)
        try:
            made = await connect()
        except Exception as error:
            if not isinstance(error, expected):
                logger.exception("%s: a connection failed by a fault of the program", outage.shown)
            outage.begins(owner, failed(error))
        else:
            outage.ends(owner)
            return made
