"""Publishes changes of runs to the lists that show them, as small notices: only the newest one of each run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict

import msgspec

from tidewire.errors import PublishError
from tidewire.hub import Hub
from tidewire.messages import Format
from tidewire.pipelines.run_channels import RUN_LISTS
from tidewire.pipelines.runs import Run, RunStatus, StepState, StepStatus

__all__ = ("Notices", "list_channel")

logger = logging.getLogger("tidewire.pipelines")

#: Seconds between two publications, and for the last one of a process that ends.
_PACE, _CLOSING_SECONDS = 0.5, 2.0
#: Runs in one publication.
_MOST = 50
_encode = msgspec.json.Encoder().encode


def list_channel(user: str) -> str:
    """Return the channel of a user's list of runs; "" is the list of all. Clients cannot subscribe to it directly."""
    return RUN_LISTS + user


class StepNotice(msgspec.Struct, frozen=True):
    """The state of a started step, from which a list estimates how long the run may take."""

    status: StepStatus
    progress: int
    started: float | None


class RunNotice(msgspec.Struct, frozen=True):
    """The state of a run as a list shows it; waiting steps are left out."""

    run: str
    created: float
    seq: int
    status: RunStatus
    progress: int
    position: int | None
    started: float | None
    ended: float | None
    steps: dict[str, StepNotice]


class ListNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """One publication: runs that have changed or are new, and the ids of those that were removed."""

    changed: tuple[RunNotice, ...] = ()
    removed: tuple[str, ...] = ()


class _News(msgspec.Struct, frozen=True):
    """The next notice of one run; None means that the run was removed."""

    user: str
    notice: RunNotice | None


class Notices:
    """Publishes this process's changes, and retries while the store is away: only the newest notice of a run waits."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._pending: dict[str, _News] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start publishing."""
        self._task = asyncio.create_task(self._publish_all())

    async def aclose(self) -> None:
        """Publish the pending notices if that is possible now, and stop."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._publish_pending()

    def changed(self, run: Run, seq: int) -> None:
        """Queue a notice of a run that was saved; `seq` is the number of its last published event."""
        self._note(run.id, _News(run.user, _notice(run, seq)))

    def removed(self, run: str, user: str) -> None:
        """Queue a notice that a user's run was removed."""
        self._note(run, _News(user, None))

    def _note(self, run: str, news: _News) -> None:
        self._pending[run] = news
        self._news.set()

    async def _publish_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._publish_pending()
            await asyncio.sleep(_PACE)

    async def _publish_pending(self) -> None:
        taken, self._pending = self._pending, {}
        lists: dict[str, dict[str, RunNotice | None]] = defaultdict(dict)
        for run, news in taken.items():
            for user in {"", news.user}:
                lists[user][run] = news.notice
        try:
            for user, notices in lists.items():
                await self._publish(user, notices)
            taken.clear()
        except PublishError as error:
            logger.debug("changes in lists of runs are published later: %s", error)
            self._news.set()
        finally:
            self._pending = taken | self._pending  # a repeated notice is harmless

    async def _publish(self, user: str, notices: dict[str, RunNotice | None]) -> None:
        runs = list(notices)
        for begin in range(0, len(runs), _MOST):
            part = {run: notices[run] for run in runs[begin : begin + _MOST]}
            changed = tuple(notice for notice in part.values() if notice is not None)
            removed = tuple(run for run, notice in part.items() if notice is None)
            await self._hub.node.publish(list_channel(user), _encode(ListNews(changed, removed)), Format.JSON)


def _notice(run: Run, seq: int) -> RunNotice:
    steps = {step.name: _step(step) for step in run.steps if step.status is not StepStatus.WAITING}
    return RunNotice(run.id, run.created, seq, run.status, run.progress, run.position, run.started, run.ended, steps)


def _step(step: StepState) -> StepNotice:
    return StepNotice(step.status, step.progress, step.started)
