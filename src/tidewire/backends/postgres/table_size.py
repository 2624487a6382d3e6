"""Bounds the bytes of all publications as the server stores them: the oldest of all channels go."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.schema import SQL

__all__ = ("StoreBytes",)

#: Publications of one statement, seconds between two, and the part of the limit that is free after it was reached.
_COUNT, _STEP, _SPARE = 2_000, 0.005, 1 / 8


class StoreBytes:
    """Knows how much may be written to the server's log before the publications have to be measured again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._measure_at = 0

    async def bound(self, limit: int) -> bool:
        """Remove publications beyond so many bytes; return whether there were any. Raises StoreUnavailable.

        Publications are no larger than their table, and grow by no more than the log does.
        """
        row = await self._pool.fetchrow(SQL["store_size"])
        if row["used"] <= limit or row["written"] < self._measure_at:
            return False
        now, sizes = row["now"], await self._measure(row["now"])
        total = sum(sizes.values())
        self._measure_at = row["written"] + max(limit - total, int(limit * _SPARE))
        excess = total - int(limit * (1 - _SPARE))
        if total <= limit:
            return False
        age = max(sizes)
        for age in sorted(sizes, reverse=True):  # the oldest first
            excess -= sizes[age]
            if excess <= 0:
                break
        return await self._shrink(now - math.exp(age / 64))

    async def _measure(self, now: float) -> Counter[int]:
        """Return the bytes of publications by the logarithm of their age."""
        sizes: Counter[int] = Counter()
        last = [0, 0]
        while True:
            rows = await self._pool.fetch(SQL["measure"], *last, _COUNT, now)
            if not rows:
                return sizes
            for row in rows:
                sizes[row["age"]] += row["size"]
            last = max(row["last"] for row in rows)
            await asyncio.sleep(_STEP)

    async def _shrink(self, before: float) -> bool:
        """Remove publications that were kept before a moment."""
        has_removed = False
        last = [0, 0]
        while True:

            async def step(connection: Any, after: list[int] = last) -> Any:
                async with connection.transaction():
                    await connection.execute(SQL["trimming"])
                    return await connection.fetchrow(SQL["shrink"], *after, _COUNT, before)

            row = await self._pool.run(step)
            has_removed = has_removed or row["removed"] > 0
            if row["last"] is None:
                return has_removed
            last = row["last"]
            await asyncio.sleep(_STEP)
