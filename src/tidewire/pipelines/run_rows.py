"""The runs as rows of the admin page, which belongs to a layer below."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidewire.errors import BadRequest
from tidewire.observe.shown_runs import RunPage, RunRow
from tidewire.pipelines.errors import PipelineError
from tidewire.pipelines.run_store import RunStore
from tidewire.pipelines.runs import Run, StepStatus

__all__ = ("RunRows",)


class RunRows:
    """Shows all runs of all users, and cancels them, for the operator (observe.shown_runs.ShownRuns)."""

    def __init__(self, store: RunStore, cancel: Callable[[str], Awaitable[Run]]) -> None:
        self._store = store
        self._cancel = cancel

    async def page(self, search: str, limit: int, offset: int) -> RunPage:
        """Return a page of the runs that match a text, the newest first, and the number of matches."""
        total, runs = await self._store.search(search, limit, offset)
        return RunPage(total, [_row(run) for run in runs])

    async def cancel(self, run: str) -> None:
        """Cancel a run; raises BadRequest for one that cannot be cancelled."""
        try:
            await self._cancel(run)
        except PipelineError as error:
            raise BadRequest(str(error)) from error


def _row(run: Run) -> RunRow:
    return RunRow(
        id=run.id,
        pipeline=run.pipeline,
        sample=run.sample,
        user=run.user,
        status=run.status.value,
        step=_step(run),
        progress=run.progress,
        created=run.created,
        started=run.started,
        ended=run.ended,
        error=run.error,
        may_cancel=run.status.is_active,
    )


def _step(run: Run) -> str:
    """Return the steps that are running or have failed."""
    at = (StepStatus.RUNNING, StepStatus.FAILED)
    return ", ".join(step.title or step.name for step in run.steps if step.status in at)
