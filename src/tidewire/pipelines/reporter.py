"""Publishes the events of a run in order, and stores both the state of the run and the view of its viewers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from tidewire.errors import PublishError, StoreUnavailable
from tidewire.hub import Hub
from tidewire.messages import Format, Position, Publication
from tidewire.pipelines.notices import Notices
from tidewire.pipelines.run_channels import RUN_EVENTS, RUN_LOGS
from tidewire.pipelines.run_store import RunStore
from tidewire.pipelines.runs import (
    Event,
    LogEvent,
    Run,
    RunEvent,
    RunStatus,
    StepEvent,
    StepState,
    StepStatus,
    View,
    apply,
)

__all__ = ("Reporter", "channel", "current_view", "log_channel")

logger = logging.getLogger("tidewire.pipelines")

#: Seconds between two publications, and before a failed one is repeated.
_PACE, _AGAIN = 0.1, 1.0
#: Events that are published before the view is stored: a later viewer reads them from the channel's history of 100.
_AHEAD = 50
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StepEvent | RunEvent).decode


def channel(run: str) -> str:
    """Return the channel of a run's events; clients cannot subscribe to it directly."""
    return RUN_EVENTS + run


def log_channel(run: str) -> str:
    """Return the channel of new text in a run's logs."""
    return RUN_LOGS + run


async def current_view(hub: Hub, view: View) -> View:
    """Return a stored view with all later events applied, and their last position."""
    page = await hub.history(channel(view.run.id), since=view.position)
    run = view.run
    for event in _events(page.publications):
        if event.seq > run.seq:
            run = apply(run, event)
    return View(run, page.top)


def _events(publications: Sequence[Publication]) -> list[Event]:
    found: list[Event] = []
    for publication in publications:
        try:
            found.append(_decode(publication.data))
        except msgspec.MsgspecError:
            logger.warning("an event of another version in %s was not understood", publication.channel)
    return found


class Reporter:
    """Publishes and stores one run for its owner. It raises nothing while a store is away, but tries again.

    Only the newest progress of a running step is published; all other events are, in order.
    """

    def __init__(self, hub: Hub, store: RunStore, notices: Notices, run: Run, view: View) -> None:
        #: The state of the run, whether it is published or not.
        self.run = run
        self._hub = hub
        self._store = store
        self._notices = notices
        self._view = view
        self._kept_seq = view.run.seq
        self._pending: list[Event] = []
        self._logs: dict[str, LogEvent] = {}
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._is_saved = True
        #: The state that was stored last.
        self._stored = run
        self._task = asyncio.create_task(self._publish_all())

    async def aclose(self) -> None:
        """Stop publishing."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def wait_settled(self) -> None:
        """Wait until all events are published and stored."""
        await self._settled.wait()

    def note_run(self, status: RunStatus, *, position: int | None = None, error: str = "") -> None:
        """Note a change of the run."""
        progress = 100 if status is RunStatus.FINISHED else self.run.progress
        self._note(RunEvent(0, self.run.id, time.time(), status, progress, position, error))

    def note_step(self, step: StepState) -> None:
        """Note a change of a step: its new state."""
        total = self.run.with_step(step).progress
        self._note(
            StepEvent(
                0,
                self.run.id,
                time.time(),
                step.name,
                step.progress,
                step.status,
                total,
                step.attempt,
                step.message,
                step.exit_code,
                step.error,
                step.lines,
            )
        )

    def note_log(self, step: str, start: int, end: int, text: str) -> None:
        """Note new text in a step's log."""
        self._logs[step] = LogEvent(self.run.id, step, start, end, text)
        self._news.set()

    def _note(self, event: Event) -> None:
        self.run = apply(self.run, event)
        if isinstance(event, StepEvent) and event.status is StepStatus.RUNNING:
            self._drop_older(event)
        self._pending.append(event)
        self._changed()

    def _drop_older(self, event: StepEvent) -> None:
        """Remove unpublished progress of the same attempt, except the event that it has begun."""
        known = self._view.run.step(event.step)
        older = [old for old in self._pending if _is_same_attempt(old, event)]
        is_begun = (known.status, known.attempt) == (StepStatus.RUNNING, event.attempt)
        for old in older if is_begun else older[1:]:
            self._pending.remove(old)

    def _changed(self) -> None:
        self._is_saved = False
        self._settled.clear()
        self._news.set()

    def catch_up(self) -> None:
        """Note all changes that an owner stored but did not publish before it died."""
        viewed = self._view.run
        for step in self.run.steps:
            known = viewed.step(step.name)
            if step.status in (StepStatus.RUNNING, StepStatus.DONE, StepStatus.FAILED) and (
                (step.status, step.attempt) != (known.status, known.attempt)
            ):
                self.note_step(step)
        if self.run.status is not viewed.status:
            self.note_run(self.run.status, position=self.run.position, error=self.run.error)

    async def save(self, *, sync: bool = False) -> bool:
        """Store the current state; a failure is tried again later. With `sync` it survives a power cut."""
        run, view = self.run, self._view
        try:
            await self._store.save(run, view, sync=sync)
        except StoreUnavailable as error:
            logger.warning("the state of run %s is not stored yet: %s", run.id, error)
            return False
        self._kept_seq = max(self._kept_seq, view.run.seq)
        self._stored = run
        self._is_saved = run is self.run and view is self._view
        self._notices.changed(run, view.run.seq)
        return True

    async def _publish_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._publish_events()
            await self._publish_logs()
            failed = not self._is_saved and not await self.save()
            if self._pending or not self._is_saved:
                self._news.set()
            else:
                self._settled.set()
            await asyncio.sleep(_AGAIN if failed else _PACE)

    async def _publish_events(self) -> None:
        while self._pending and self._view.run.seq < self._kept_seq + _AHEAD:
            event = msgspec.structs.replace(self._pending.pop(0), seq=self._view.run.seq + 1)
            if not _is_progress(event) and self._stored is not self.run:
                await self.save()  # a viewer that hears of a change and then reads the run must find it there
            # The same event is repeated until it is surely kept: an unconfirmed one may have taken its number.
            while (position := await self._publish(event)) is None:
                await self.save()
                await asyncio.sleep(_AGAIN)
            self._view = View(apply(self._view.run, event), position)
            self._is_saved = False

    async def _publish(self, event: Event) -> Position | None:
        try:
            key = f"{event.seq}:{event.time}"
            return await self._hub.node.publish(channel(self.run.id), _encode(event), Format.JSON, key=key)
        except PublishError as error:
            logger.warning("an event of run %s is published later: %s", self.run.id, error)
            return None

    async def _publish_logs(self) -> None:
        logs, self._logs = self._logs, {}
        for event in logs.values():
            try:
                await self._hub.node.publish(log_channel(self.run.id), _encode(event), Format.JSON)
            except PublishError as error:
                logger.debug("newest text of run %s is not pushed, its log has it: %s", self.run.id, error)


def _is_progress(event: Event) -> bool:
    return isinstance(event, StepEvent) and event.status is StepStatus.RUNNING


def _is_same_attempt(old: Event, new: StepEvent) -> bool:
    return (
        isinstance(old, StepEvent)
        and (old.step, old.attempt) == (new.step, new.attempt)
        and old.status is StepStatus.RUNNING
    )
