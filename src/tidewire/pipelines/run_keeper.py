"""Keeps the runs of this process: takes them from the queue, cancels them, and takes over runs of dead processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.hub import Hub
from tidewire.pipelines.attempt import RunFacts
from tidewire.pipelines.errors import PipelineError
from tidewire.pipelines.execution import Execution
from tidewire.pipelines.folders import RunFolder
from tidewire.pipelines.guard_pool import Guards
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.notices import Notices
from tidewire.pipelines.owners import Owners
from tidewire.pipelines.processes import end_identity, end_marked
from tidewire.pipelines.reporter import Reporter, current_view
from tidewire.pipelines.run_store import Attention, Record, RunStore
from tidewire.pipelines.runs import Run, RunStatus, StepStatus, View

__all__ = ("Keeper",)

logger = logging.getLogger("tidewire.pipelines")

#: Seconds between two looks at the store, and between two looks for dead owners.
_LOOK_SECONDS, _SWEEP_SECONDS = 1.0, 2.0
#: Seconds for the last events of a closing process, and for a dead owner's processes to end by themselves.
_CLOSING_SECONDS, _ORPHAN_SECONDS = 2.0, 3.0


class _Owned:
    """A run of this process, with its reporter, and with its execution once it runs."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.execution: Execution | None = None
        self.task: asyncio.Task[None] | None = None
        #: The status of the run when its task is cancelled.
        self.ending = RunStatus.INTERRUPTED


class Keeper:
    """The runs of this process. `facts` returns facts for the execution of a record, `count` counts reached limits."""

    def __init__(
        self,
        hub: Hub,
        store: RunStore,
        root: Path,
        limits: PipelineLimits,
        facts: Callable[[Record], RunFacts],
        count: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._store = store
        self._root = root
        self._limits = limits
        self._facts = facts
        self._count = count
        self._owners = Owners(root / "owners")
        self._guards = Guards()
        self._owned: dict[str, _Owned] = {}
        #: Publishes changes to lists of runs.
        self.notices = Notices(hub)
        #: Runs that are being added to the store for this process.
        self.arriving: set[str] = set()
        self._broken: set[str] = set()
        self._woken = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._ended: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """The name of this process as an owner."""
        return self._owners.name

    async def open(self) -> None:
        """Start; runs of dead owners are taken over before this returns. Raises OSError."""
        self._hub.report(self._figures)
        self._owners.open(self.wake)
        await self._sweep()
        await self._look()
        self.notices.open()
        self._task = asyncio.create_task(self._keep())

    async def aclose(self) -> None:
        """Interrupt the running runs, publish that, and stop."""
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        tasks = [owned.task for owned in self._owned.values() if owned.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._let_go()
        await self._guards.aclose()
        await self.notices.aclose()
        self._owners.close()
        await self._notify()

    async def _let_go(self) -> None:
        last = list(self._owned.items())
        tasks = {
            # queued runs continue in the next process that looks for dead owners
            asyncio.create_task(owned.reporter.wait_settled() if owned.task is None else self._retire(run, owned))
            for run, owned in last
        }
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for _, owned in last:
            await owned.reporter.aclose()

    def _figures(self) -> dict[tuple[str, ...], float]:
        """Return the figures of the runs of this process, for metrics."""
        now = Counter(owned.reporter.run.status.value for owned in self._owned.values())
        shown: dict[tuple[str, ...], float] = {
            ("pipeline_runs", status): now[status] for status in ("queued", "running")
        }
        return shown | {("pipeline_runs_ended", status): count for status, count in self._ended.items()}

    def wake(self) -> None:
        """Look at the store now."""
        self._woken.set()

    def wake_all(self) -> None:
        """Look at the store now, in all processes."""
        self.wake()
        self._owners.wake()

    async def wait_changed(self, seconds: float) -> None:
        """Return when a run may have changed, or after a timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    def own(self, run: Run, view: View | None = None) -> None:
        """Take a run that the store has assigned to this process."""
        view = view or View(run)
        self._guards.prepare()
        self._owned[run.id] = _Owned(Reporter(self._hub, self._store, self.notices, run, view))
        self.notices.changed(run, view.run.seq)
        self.wake_all()

    async def own_again(self, run: str) -> None:
        """Take a resumed run that the store has assigned to this process."""
        record = await self._store.record(run)
        if record is not None:
            view = await current_view(self._hub, record.view)
            self.own(record.run, view)
            reporter = self._owned[run].reporter
            reporter.note_run(RunStatus.QUEUED)
            await reporter.save()  # `resume` reads it back at once

    def note_progress(self, run: str, step: str, fraction: float, message: str) -> bool | None:
        """Take progress from another process; return None when this process does not run it."""
        owned = self._owned.get(run)
        if owned is None or owned.execution is None:
            return None
        return owned.execution.note_progress(step, fraction, message)

    # The loop.

    async def _keep(self) -> None:
        swept = 0.0
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            try:
                if loop.time() - swept >= _SWEEP_SECONDS:
                    swept = loop.time()
                    await self._sweep()
                await self._look()
                for progress in await self._store.take_progress(self.name):
                    self.note_progress(*progress)
            except StoreUnavailable as error:
                logger.warning("the runs cannot be read now, trying again: %s", error)
            except Exception:  # without this loop no run would begin or be cancelled any more
                logger.exception("looking at the runs failed; it is tried again")
            await self._notify()

    async def _look(self) -> None:
        for attention in await self._store.attend(self.name, self._limits):
            if attention.id in self._broken:
                continue
            try:
                await self._attend(attention)
            except StoreUnavailable:
                raise
            except OSError as error:  # temporary: a full disk, no descriptors left
                logger.warning("run %s cannot be started or ended now, trying again: %s", attention.id, error)
            except Exception:  # one run, perhaps of another version, must not stop all others
                self._broken.add(attention.id)
                logger.exception("run %s stays as it is until the server is restarted", attention.id)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _attend(self, attention: Attention) -> None:
        owned = self._owned.get(attention.id)
        if owned is None:
            if attention.id not in self.arriving:
                await self._inherit(attention.id)
            return
        if attention.is_cancelled:
            self._cancel(attention.id, owned)
        elif owned.task is not None:
            return
        elif attention.may_begin or attention.status is RunStatus.RUNNING:  # `begin` worked, but its answer was lost
            await self._begin(attention.id, owned)
        elif owned.reporter.run.position != attention.position:
            owned.reporter.note_run(RunStatus.QUEUED, position=attention.position)

    async def _begin(self, run: str, owned: _Owned) -> None:
        record = await self._store.record(run)
        if record is None:
            return
        try:
            facts = self._facts(record)
        except (PipelineError, ConfigurationError, msgspec.MsgspecError) as error:
            owned.reporter.note_run(RunStatus.FAILED, error=f"its definition cannot be used any more: {error}")
            owned.task = asyncio.create_task(self._retire(run, owned))
            return
        if not await self._store.begin(run, self.name):
            return
        owned.execution = Execution(
            facts, owned.reporter, self._store, self._guards, count=self._count, is_closing=lambda: self._is_closing
        )
        owned.task = asyncio.create_task(self._execute(run, owned, owned.execution))
        self._owners.wake()

    def _cancel(self, run: str, owned: _Owned) -> None:
        if owned.ending is RunStatus.CANCELLED or not owned.reporter.run.status.is_active:
            return  # it is ending already, and its end must be published and stored
        owned.ending = RunStatus.CANCELLED
        if owned.task is not None:
            owned.task.cancel()
        else:
            owned.reporter.note_run(RunStatus.CANCELLED)
            owned.task = asyncio.create_task(self._retire(run, owned))

    async def _execute(self, run: str, owned: _Owned, execution: Execution) -> None:
        try:
            await execution.run()
        except asyncio.CancelledError:
            owned.reporter.note_run(owned.ending, error=_STOPPED if owned.ending is RunStatus.INTERRUPTED else "")
        except Exception:
            logger.exception("run %s failed", run)
            owned.reporter.note_run(RunStatus.FAILED, error="the server failed at it; its log says why")
        if not self._is_closing:
            await self._retire(run, owned)

    async def _retire(self, run: str, owned: _Owned) -> None:
        """Release a run when all its events are published and stored."""
        await owned.reporter.wait_settled()
        while True:
            try:
                await self._store.release(run, self.name)
                break
            except StoreUnavailable as error:
                logger.warning("the end of run %s is not stored yet: %s", run, error)
                await asyncio.sleep(_LOOK_SECONDS)
        await owned.reporter.aclose()
        self._ended[owned.reporter.run.status.value] += 1
        if self._owned.get(run) is owned:  # a released run may have been resumed already
            del self._owned[run]
        self.wake_all()

    # Dead owners.

    async def _sweep(self) -> None:
        """Take over the runs of dead processes, and remove the oldest ended runs over the limit."""
        for owner in await self._store.owners() | self._owners.known():
            if self._owners.is_dead(owner):
                await self._store.adopt(owner, self.name)
                self._owners.forget(owner)
        for run, user in await self._store.beyond(self._limits.keep):
            if await self._store.remove(run):
                self._count("keep")
                self.notices.removed(run, user)
                await asyncio.to_thread(RunFolder(self._root, run).remove)

    async def _inherit(self, run: str) -> None:
        """Take over a run of a dead process, or one that this process added without an answer of the store."""
        record = await self._store.record(run)
        if record is None or record.owner != self.name:
            return
        for identity in await self._store.processes(run):
            await asyncio.to_thread(end_identity, identity, seconds=_ORPHAN_SECONDS)
        await asyncio.to_thread(end_marked, {"TIDEWIRE_RUN": run})
        await self._store.clear_processes(run)
        view = await current_view(self._hub, record.view)
        self.own(_furthest(record.run, view.run), view)
        owned = self._owned[run]
        owned.reporter.catch_up()
        if record.status is RunStatus.QUEUED and not record.is_cancelled:
            return  # no step had begun, so nothing is lost
        if record.run.status.is_active or record.status.is_active:
            status = RunStatus.CANCELLED if record.is_cancelled else RunStatus.INTERRUPTED
            owned.reporter.note_run(status, error=_STOPPED if status is RunStatus.INTERRUPTED else "")
            logger.warning("run %s was left by a process that has died: it is %s", run, status.value)
        owned.task = asyncio.create_task(self._retire(run, owned))


#: The error text of an interrupted run.
_STOPPED = "the server that ran it has ended; resume it, and the steps that are done stay done"


def _furthest(kept: Run, viewed: Run) -> Run:
    """Return the stored state, with the steps that were already published as done."""
    steps = tuple(
        after if after.status is StepStatus.DONE else before
        for before, after in zip(kept.steps, viewed.steps, strict=True)
    )
    return msgspec.structs.replace(kept, steps=steps, progress=max(kept.progress, viewed.progress), seq=viewed.seq)
