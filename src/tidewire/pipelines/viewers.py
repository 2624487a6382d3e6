"""Serves the viewers of a run: first its state, then every later event."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec

from tidewire.errors import ConnectionClosed
from tidewire.hub import Hub
from tidewire.messages import Position, Publication, WireMessage
from tidewire.pipelines.reporter import channel, current_view, log_channel
from tidewire.pipelines.run_channels import RUN_EVENTS, RUN_LOGS
from tidewire.pipelines.run_keeper import Keeper
from tidewire.pipelines.run_store import Record, RunStore
from tidewire.pipelines.runs import Run, RunEvent, RunStatus, StepEvent, StepStatus
from tidewire.protocols.close_codes import INSUFFICIENT
from tidewire.protocols.json import JsonProtocol
from tidewire.sessions.application import HubConnection

__all__ = ("EVENTS", "STEPS", "Viewers")

#: Seconds between two checks whether a run is over, and for its last event to reach a viewer.
_LOOK_SECONDS, _LAST_SECONDS = 1.0, 10.0
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StepEvent | RunEvent).decode
_BEGUN = {StepStatus.STOPPED: StepStatus.RUNNING}


class EventProtocol(JsonProtocol):
    """Encodes events as they were published; messages to the viewer's user are not sent."""

    def encode_publication(self, publication: Publication) -> WireMessage | None:
        if not publication.channel.startswith((RUN_EVENTS, RUN_LOGS)):
            return None
        return self.encode_event(publication)

    def encode_event(self, publication: Publication) -> WireMessage:
        """Encode the event of a run."""
        return WireMessage(publication.data)


class StepProtocol(EventProtocol):
    """Encodes events of steps and the end of the run; the queue is shown as a step, too."""

    def encode_event(self, publication: Publication) -> WireMessage:
        event = _decode(publication.data)
        return as_step(event) if isinstance(event, RunEvent) else WireMessage(publication.data)


#: The instances that viewers share.
EVENTS = EventProtocol()
STEPS = StepProtocol()


class _Said(msgspec.Struct):
    type: str = ""


class Viewers:
    """Serves viewers of the runs of one store."""

    def __init__(self, hub: Hub, store: RunStore, keeper: Keeper) -> None:
        self._hub = hub
        self._store = store
        self._keeper = keeper

    async def watch(self, connection: HubConnection, record: Record, *, log: bool) -> None:
        """Send the state and then every event until the client leaves; with `log` also new text of the logs."""
        if log:
            await self._subscribe(connection, log_channel(record.run.id), None)
        view = await current_view(self._hub, record.view)
        await connection.send_json({"type": "state", "seq": view.run.seq, "run": view.run})
        await self._subscribe(connection, channel(record.run.id), view.position)
        await _answer(connection)

    async def watch_steps(self, connection: HubConnection, record: Record) -> None:
        """Send one event for each step that has begun, then every event, and close when the run is over."""
        view = await current_view(self._hub, record.view)
        await connection.send(*_so_far(view.run))
        await self._subscribe(connection, channel(record.run.id), view.position)
        answering = asyncio.create_task(_answer(connection))
        try:
            while not answering.done():
                now = await self._store.record(record.run.id)
                if now is None or now.view.run.status.is_over:
                    await self._wait_published(connection, channel(record.run.id), now.view.position if now else None)
                    await connection.close(1000, now.view.run.status.value if now else "removed")
                    break
                await self._keeper.wait_changed(_LOOK_SECONDS)
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await answering

    async def _subscribe(self, connection: HubConnection, name: str, since: Position | None) -> None:
        try:
            answer = await self._hub.node.subscribe(connection.connection, name, since=since)
        finally:
            connection.connection.link.uncork()
        if answer.recovered is False:
            connection.connection.end(INSUFFICIENT)  # the client reconnects, and gets the state again

    async def _wait_published(self, connection: HubConnection, name: str, position: Position | None) -> None:
        """Wait until all events up to a position were pushed to a viewer."""
        subscriptions = self._hub.node.registry.subscriptions(connection.connection)
        end = time.monotonic() + _LAST_SECONDS
        while time.monotonic() < end:
            subscription = subscriptions.get(name)
            if subscription is None or position is None or subscription.live_after >= position.offset:
                return
            await asyncio.sleep(0.02)


async def _answer(connection: HubConnection) -> None:
    async for said in connection.iter_json(_Said):
        if said.type == "ping":
            await connection.send_json({"type": "pong"})


def as_step(event: RunEvent) -> WireMessage:
    """Return an event of a run; queued and running are shown as a step named `queue`."""
    if not event.status.is_active:
        return WireMessage(_encode(event))
    is_waiting = event.status is RunStatus.QUEUED
    status, progress = (StepStatus.RUNNING, 0) if is_waiting else (StepStatus.DONE, 100)
    step = StepEvent(event.seq, event.run, event.time, "queue", progress, status, event.progress, 1)
    fields = msgspec.to_builtins(step) | ({"position": event.position} if is_waiting else {})
    return WireMessage(_encode(fields))


def _so_far(run: Run) -> list[WireMessage]:
    messages = [as_step(_run_event(run, RunStatus.QUEUED if run.status is RunStatus.QUEUED else RunStatus.RUNNING))]
    for step in run.steps:
        if step.status is not StepStatus.WAITING:
            status = _BEGUN.get(step.status, step.status)
            when = step.ended or step.started or run.created
            event = StepEvent(
                run.seq, run.id, when, step.name, step.progress, status, run.progress, step.attempt, step.message,
                step.exit_code, step.error, step.lines,
            )  # fmt: skip
            messages.append(WireMessage(_encode(event)))
    if not run.status.is_active:
        messages.append(WireMessage(_encode(_run_event(run, run.status))))
    return messages


def _run_event(run: Run, status: RunStatus) -> RunEvent:
    when = run.ended or run.started or run.created
    return RunEvent(run.seq, run.id, when, status, run.progress, run.position, run.error)
