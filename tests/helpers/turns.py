"""Counts the calls of a method in each turn of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class CallsByTurn(Counter[int]):
    """How many calls came in each turn; turns are counted while a block of `counting` lasts."""

    turn = 0

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Count the calls of a method."""
        method = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self[self.turn] += 1
            return method(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the turns of the running loop."""
        task = asyncio.create_task(self._count())
        try:
            yield
        finally:
            task.cancel()

    async def _count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)
