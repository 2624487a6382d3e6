"""Tells lists of runs what changes: small notices, of each run the newest only, for everybody who may see it."""

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

#: Seconds between two tellings, and for the last one of a process that ends.
_PACE, _CLOSING_SECONDS = 0.5, 2.0
#: Runs in one publication.
_MOST = 50
_encode = msgspec.json.Encoder().encode


def list_channel(user: str) -> str:
    """Return the channel of the list that a user sees; "" sees everything. Clients cannot use it by themselves."""
    return RUN_LISTS + user


class StepNotice(msgspec.Struct, frozen=True):
    """What a list needs of a step that has begun, to say how long the run may take."""

    status: StepStatus
    progress: int
    started: float | None


class RunNotice(msgspec.Struct, frozen=True):
    """What a list shows of a run; steps that wait are left out."""

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
    """What is to be told of one run; without a notice it was removed."""

    user: str
    notice: RunNotice | None


class Notices:
    """Publishes what this process changes, and tries again while the store is away: only the newest of a run waits."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._pending: dict[str, _News] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to tell."""
        self._task = asyncio.create_task(self._tell())

    async def aclose(self) -> None:
        """Tell what is left if that is possible now, and end."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._publish_pending()

    def changed(self, run: Run, seq: int) -> None:
        """Say what a run is now, kept already; `seq` is the event up to which that is so at least."""
        self._note(run.id, _News(run.user, _notice(run, seq)))

    def removed(self, run: str, user: str) -> None:
        """Say that a user's run is not there any more."""
        self._note(run, _News(user, None))

    def _note(self, run: str, news: _News) -> None:
        self._pending[run] = news
        self._news.set()

    async def _tell(self) -> None:
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
            logger.debug("what has changed in lists of runs is told later: %s", error)
            self._news.set()
        finally:
            self._pending = taken | self._pending  # told twice, it changes nothing

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
