"""The state of a run, its events, and a pure function that applies an event to a state."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from tidewire.messages import Position
from tidewire.pipelines.progress import percent

__all__ = (
    "Event",
    "GivenInput",
    "LogEvent",
    "Run",
    "RunEvent",
    "RunStatus",
    "StepEvent",
    "StepState",
    "StepStatus",
    "View",
    "apply",
)


class RunStatus(StrEnum):
    """The state of a whole run."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  #: the process that ran it has ended

    @property
    def is_active(self) -> bool:
        """Whether the run waits or runs."""
        return self in (RunStatus.QUEUED, RunStatus.RUNNING)

    @property
    def is_over(self) -> bool:
        """Whether the run finished, failed or was cancelled; an interrupted one may be resumed."""
        return self in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.CANCELLED)


class StepStatus(StrEnum):
    """The state of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  #: by a cancellation or an interruption


class GivenInput(msgspec.Struct, frozen=True):
    """An input file of a run; only the server knows its path."""

    input: str
    name: str
    size: int


class StepState(msgspec.Struct, frozen=True):
    """One step of a run; `progress` is 0 to 100, `lines` the last ones of output when it failed."""

    name: str
    title: str
    weight: float
    needs: tuple[str, ...]
    attempts: int
    status: StepStatus = StepStatus.WAITING
    progress: int = 0
    message: str = ""
    attempt: int = 0
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    error: str = ""
    lines: tuple[str, ...] = ()
    expected: float | None = None


class Run(msgspec.Struct, frozen=True):
    """One execution of a pipeline for one sample; `seq` counts its events, `position` is its place in the queue."""

    id: str
    pipeline: str
    title: str
    sample: str
    user: str
    created: float
    inputs: tuple[GivenInput, ...]
    steps: tuple[StepState, ...]
    status: RunStatus = RunStatus.QUEUED
    progress: int = 0
    position: int | None = None
    seq: int = 0
    error: str = ""
    started: float | None = None
    ended: float | None = None

    def step(self, name: str) -> StepState:
        """Return a step by name; raises KeyError."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def with_step(self, changed: StepState) -> Run:
        """Return the run with one step changed and its progress updated; progress never goes back."""
        steps = tuple(changed if step.name == changed.name else step for step in self.steps)
        whole = sum(step.weight for step in steps)
        done = percent(sum(step.weight * step.progress for step in steps) / whole / 100)
        return msgspec.structs.replace(self, steps=steps, progress=max(self.progress, min(done, 99)))


class StepEvent(msgspec.Struct, frozen=True, tag="step", omit_defaults=True):
    """A change of a step; `total` is the progress of the whole run."""

    seq: int
    run: str
    time: float
    step: str
    progress: int
    status: StepStatus
    total: int
    attempt: int
    message: str = ""
    exit_code: int | None = None
    error: str = ""
    lines: tuple[str, ...] = ()


class RunEvent(msgspec.Struct, frozen=True, tag="run", omit_defaults=True):
    """A change of a whole run."""

    seq: int
    run: str
    time: float
    status: RunStatus
    progress: int
    position: int | None = None
    error: str = ""


class LogEvent(msgspec.Struct, frozen=True, tag="log", rename={"start": "from", "end": "to"}):
    """Newest text of a step's log, between two positions in its file."""

    run: str
    step: str
    start: int
    end: int
    text: str


Event = StepEvent | RunEvent


class View(msgspec.Struct, frozen=True):
    """The state of a run according to its published events, and the position of the last of them."""

    run: Run
    position: Position | None = None


def apply(run: Run, event: Event) -> Run:
    """Return the state of a run after an event."""
    replace = msgspec.structs.replace
    if isinstance(event, StepEvent):
        step = run.step(event.step)
        is_new = event.attempt != step.attempt
        changed = replace(
            step,
            status=event.status,
            progress=event.progress,
            message=event.message,
            attempt=event.attempt,
            started=event.time if is_new or step.started is None else step.started,
            ended=event.time if event.status in (StepStatus.DONE, StepStatus.FAILED) else None,
            exit_code=event.exit_code,
            error=event.error,
            lines=event.lines,
        )
        return replace(run.with_step(changed), seq=event.seq, progress=event.total)
    is_begun = event.status is RunStatus.RUNNING
    steps = run.steps
    if event.status is RunStatus.QUEUED:
        steps = tuple(step if step.status is StepStatus.DONE else _fresh(step) for step in steps)
    elif not is_begun:
        steps = tuple(
            replace(step, status=StepStatus.STOPPED, ended=event.time) if step.status is StepStatus.RUNNING else step
            for step in steps
        )
    return replace(
        run,
        steps=steps,
        status=event.status,
        seq=event.seq,
        progress=event.progress,
        position=event.position,
        error=event.error,
        started=event.time if is_begun else run.started,
        ended=None if event.status.is_active else event.time,
    )


def _fresh(step: StepState) -> StepState:
    return StepState(step.name, step.title, step.weight, step.needs, step.attempts, expected=step.expected)
