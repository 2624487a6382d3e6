"""Housekeeping, by any node: moves committed publications into their channels, and removes those not shown any more."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from tidewire.backends.base import Moved
from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.publishing import MOST
from tidewire.backends.postgres.schema import SQL, mend
from tidewire.errors import StoreUnavailable
from tidewire.retention import Retention

__all__ = ("DELIVERY_SECONDS", "Housekeeping")

logger = logging.getLogger("tidewire")

#: Seconds for which every publication stays.
DELIVERY_SECONDS = 60.0
#: Publications that are moved in one transaction, and their bytes; of larger ones, one at a time.
_MOVE_COUNT, _MOVE_BYTES = 200, 4 * 1_048_576
#: Seconds between tries to move while another node does, or it fails.
_MOVE_RETRY, _MOVE_FAILED = 0.05, 1.0
#: Channels that one step of trimming looks at, publications or keys that it removes, and seconds between two steps and
#: two rounds.
_TRIM_CHANNELS, _TRIM_COUNT, _TRIM_STEP, _TRIM_ROUND = 100, 1_000, 0.02, 5.0


class Housekeeping:
    """Two endless tasks, `move` and `trim`, which mends the schema, too; of all nodes one at a time does each."""

    def __init__(self, pool: Pool, on_moved: Moved) -> None:
        self._pool = pool
        self._on_moved = on_moved
        self._has_committed = asyncio.Event()
        #: Channels whose counters say otherwise than their rules what is kept.
        self._retentions: dict[str, Retention] = {}

    def note_committed(self) -> None:
        """Note that the transaction table is perhaps not empty."""
        self._has_committed.set()

    async def move(self) -> None:
        """Move the publications that applications have committed, for ever."""
        is_failing = False
        while True:
            await self._has_committed.wait()
            self._has_committed.clear()
            try:
                await self._move_all()
                is_failing = False
            except StoreUnavailable as error:
                if not is_failing:
                    logger.warning("publications of transactions cannot be moved yet: %s", error)
                is_failing = True
                await asyncio.sleep(_MOVE_FAILED)
                self._has_committed.set()

    async def _move_all(self) -> None:
        while True:
            row = await self._pool.fetchrow(SQL["move"], _MOVE_COUNT, _MOVE_BYTES)
            if row["moved"] is None:  # another node is at it, and may not have seen the removal that this one saw
                await asyncio.sleep(_MOVE_RETRY * random.uniform(0.5, 1.5))
                continue
            if row["moved"]:
                self._moved(row)
            await self._retain()
            if not row["has_more"]:
                return

    def _moved(self, row: Any) -> None:
        """Tell of a move; a transaction does not know what the rule of its channel keeps, so the mover says it."""
        retentions = self._on_moved(dict(zip(row["names"], row["tops"], strict=True)))
        for name, size, age in zip(row["names"], row["sizes"], row["ages"], strict=True):
            retention = retentions.get(name)
            if retention is not None and retention != Retention(size, age):
                self._retentions[name] = retention

    async def _retain(self) -> None:
        """Tell the counters what rules keep; those that cannot be told now are told with the next try to move."""
        for name, retention in tuple(self._retentions.items()):
            await self._pool.fetch(SQL["retain"], name, min(retention.size, MOST), retention.age)
            self._retentions.pop(name)

    async def trim(self) -> None:
        """Look that the schema is whole, and trim in rounds over all channels, for ever."""
        is_failing = False
        while True:
            await asyncio.sleep(_TRIM_ROUND * random.uniform(0.5, 1.5))
            try:
                await self._pool.run(mend)
                is_failing = False
                await self.trim_round()
            except StoreUnavailable as error:
                level = logging.INFO if is_failing else logging.WARNING
                logger.log(level, "nothing was trimmed: %s", error)
                is_failing = True

    async def trim_round(self, seconds: float = DELIVERY_SECONDS) -> None:
        """Go through all channels and then all keys, unless another node does; a channel with much is visited again."""
        reached = 0
        while True:
            row = await self._pool.fetchrow(SQL["trim"], reached, _TRIM_CHANNELS, _TRIM_COUNT, seconds)
            if row["removed"] is None or (row["reached"] is None and row["removed"] < _TRIM_COUNT):
                return
            if row["removed"] < _TRIM_COUNT:
                reached = row["reached"]
            await asyncio.sleep(_TRIM_STEP)
