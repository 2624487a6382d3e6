"""The contract by which a layer above shows its long jobs on the admin page."""

from __future__ import annotations

from typing import Protocol

import msgspec

__all__ = ("RunPage", "RunRow", "ShownRuns")


class RunRow(msgspec.Struct, frozen=True):
    """One run: its state, the step that it is at, and its times in seconds since 1970 (None: not yet)."""

    id: str
    pipeline: str
    sample: str
    user: str
    status: str
    step: str
    progress: int
    created: float
    started: float | None
    ended: float | None
    error: str
    may_cancel: bool


class RunPage(msgspec.Struct, frozen=True):
    """Rows of a list, the newest first, and the length of the whole list."""

    total: int
    runs: list[RunRow]


class ShownRuns(Protocol):
    """The runs of an application."""

    async def page(self, search: str, limit: int, offset: int) -> RunPage:
        """Return the runs with a text in their id, pipeline, sample or user; raises StoreUnavailable."""

    async def cancel(self, run: str) -> None:
        """Cancel a run that is queued or running; raises CommandError."""
