"""The pipelines of an application and their runs: start, cancel, resume, watch, read logs and results."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.hub import Hub
from tidewire.pipelines.attempt import RunFacts
from tidewire.pipelines.checks import find_inputs
from tidewire.pipelines.definition import Pipeline, Step
from tidewire.pipelines.errors import Forbidden, NotFound, NotNow, QueueFull
from tidewire.pipelines.folders import FileFacts, RunFolder, read_range
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.naming import check_sample, file_name, readable
from tidewire.pipelines.programs import check_programs
from tidewire.pipelines.run_keeper import Keeper
from tidewire.pipelines.run_rows import RunRows
from tidewire.pipelines.run_store import NewRun, Record, RunStore
from tidewire.pipelines.runs import GivenInput, Run, RunStatus, StepState, StepStatus
from tidewire.pipelines.uploads import Uploads
from tidewire.pipelines.viewers import Viewers
from tidewire.sessions.application import HubConnection
from tidewire.support.counters import count_limit

__all__ = ("LogPart", "Pipelines", "Started")

#: Bytes of one answer about a log.
_LOG_BYTES = 1_048_576
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_LOOK_SECONDS = 1.0
#: Seconds that `resume` and `remove` wait for the owner of a run, which may still publish its end.
_LETTING_GO_SECONDS = 5.0


class Started(msgspec.Struct, frozen=True):
    """A run, and whether it had been started before."""

    run: Run
    joined: bool


class LogPart(msgspec.Struct, frozen=True):
    """Bytes of a step's log from `start`, of a file that has `size` now."""

    step: str
    start: int
    data: bytes
    size: int


class Pipelines:
    """Long jobs with live progress: `async with Pipelines(hub, folder, definitions) as pipelines` inside an open hub.

    Processes that share the folder share the queue and the runs. `inputs` is a folder whose files can be named as
    inputs. `url` is the address of `router`, for steps that report by HTTP. Raises ConfigurationError.
    """

    def __init__(
        self,
        hub: Hub,
        folder: Path,
        definitions: Iterable[Pipeline] = (),
        *,
        inputs: Path | None = None,
        limits: PipelineLimits | None = None,
        url: str = "",
        default: str = "",
    ) -> None:
        self.hub = hub
        #: The pipeline that is used when none is named; "" if that depends on the sample.
        self.default = default
        self.limits = limits or PipelineLimits()
        self.definitions: dict[str, Pipeline] = {}
        for definition in definitions:
            if definition.name in self.definitions:
                raise ConfigurationError(f"two pipelines are named {definition.name!r}; give one of them another name")
            self.definitions[definition.name] = definition
        self.inputs = inputs.resolve() if inputs else None
        self._root = folder.resolve()
        self._url = url
        self._store = RunStore(self._root / "runs.db")
        limits_ = self.limits
        self._keeper = Keeper(hub, self._store, self._root, limits_, self._facts, self._count)
        self._viewers = Viewers(hub, self._store, self._keeper)
        self.uploads = Uploads(self._root / "uploads", limits_, count=self._count)

    async def __aenter__(self) -> Pipelines:
        try:
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
            await self._store.open()
            await self._keeper.open()
            self.hub.show_runs(RunRows(self._store, self.cancel))
        except BaseException as error:
            await self._close()
            if not isinstance(error, OSError):
                raise
            raise ConfigurationError(
                f"{self._root} cannot be used for runs ({error.strerror}); name a folder where this user may write"
            ) from None
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            await self._keeper.aclose()
        finally:
            await self._store.aclose()

    def _count(self, name: str) -> None:
        count_limit(f"pipeline_{name}")

    # Starting and stopping.

    def definition(self, name: str) -> Pipeline:
        """Return a pipeline by name. Raises NotFound."""
        found = self.definitions.get(name)
        if found is None:
            raise NotFound(
                f"there is no pipeline {name[:60]!r}; there are {', '.join(sorted(self.definitions)) or 'none'}"
            )
        return found

    async def start(
        self, name: str, sample: str, *, inputs: Mapping[str, Path] | None = None, new: bool = False, user: str = ""
    ) -> Started:
        """Queue a run, or join the one of the same pipeline, sample, inputs and user that is queued or running.

        Raises NotFound, BadStart for a name or an input, NotNow for a program that is missing or a disk that is full,
        QueueFull.
        """
        pipeline = self.definition(name)
        check_sample(sample)
        paths = await asyncio.to_thread(find_inputs, pipeline, sample, inputs or {}, self.inputs)
        await asyncio.to_thread(check_programs, pipeline)
        expected = await self._store.expected(name)
        steps = tuple(_waiting(step, expected.get(step.name)) for step in pipeline.steps)
        try:
            given = tuple(GivenInput(key, readable(path.name), path.stat().st_size) for key, path in paths.items())
            run = Run(_new_id(), name, pipeline.title or name, sample, user, time.time(), given, steps)
            added = await self._add(run, pipeline, paths, new=new)
        except FileNotFoundError:
            raise NotNow("another run has just taken a file of this one; send it again") from None
        except OSError as error:
            raise NotNow(f"the run cannot be kept ({error.strerror}); free some space, or try again later") from None
        return Started(added, joined=added.id != run.id)

    async def _add(self, run: Run, pipeline: Pipeline, paths: Mapping[str, Path], *, new: bool) -> Run:
        folder = RunFolder(self._root, run.id)
        # by the input's name: two files may have the same one, and one file may be given twice
        taken: dict[Path, Path] = {}
        for key, path in paths.items():
            if self.uploads.contains(path):
                taken.setdefault(path, folder.inputs / key / path.name)
            elif readable(str(path)) != str(path):  # this name cannot be an argument of a program or a part of an event
                taken.setdefault(path, folder.inputs / key / file_name(path.name, "input"))
        facts = NewRun(
            fingerprint=self._fingerprint(run, paths),
            key=secrets.token_urlsafe(18),
            definition=_encoded(pipeline),
            paths={key: str(taken.get(path, path)) for key, path in paths.items()},
            owner=self._keeper.name,
        )
        self._keeper.arriving.add(run.id)
        try:
            added = await self._store.add(run, facts, self.limits, join=not new)
            if added.id == run.id:
                await self._take(added, folder, taken)
        except QueueFull as error:
            self._count(error.limit)
            raise
        finally:
            self._keeper.arriving.discard(run.id)
        return added

    async def _take(self, run: Run, folder: RunFolder, files: Mapping[Path, Path]) -> None:
        """Move a new run's uploads into its folder; cancel the run when that fails. Raises OSError."""
        try:
            await asyncio.to_thread(self._move, folder, files)
        except OSError:  # another run has taken its upload, or the disk is full
            await self._store.cancel(run.id)
            raise
        finally:
            self._keeper.own(run)

    def _fingerprint(self, run: Run, paths: Mapping[str, Path]) -> str:
        """Return a hash that is equal for runs of the same work; it has an upload's content, and a file's path."""
        files = []
        for key, path in sorted(paths.items()):
            stat = path.stat()
            is_upload = self.uploads.contains(path)
            place = self.uploads.identity(path) if is_upload else os.fsencode(path).hex()
            files.append((key, place, stat.st_size, 0 if is_upload else stat.st_mtime_ns))
        return hashlib.sha256(msgspec.json.encode((run.pipeline, run.sample, run.user, files))).hexdigest()

    def _move(self, folder: RunFolder, files: Mapping[Path, Path]) -> None:
        """Move uploads into the folder of their run; other files are linked there."""
        folder.make()
        for file, path in files.items():
            path.parent.mkdir(mode=0o750)
            if self.uploads.contains(file):
                os.replace(file, path)
                with contextlib.suppress(OSError):
                    file.parent.rmdir()
            else:
                path.symlink_to(file)

    async def cancel(self, run: str) -> Run:
        """Ask the owner of a run to cancel it; `wait` returns when it has ended. Raises NotFound, NotNow."""
        if not await self._store.cancel(run):
            found = await self.run(run)
            raise NotNow(f"run {run} is {found.status.value}; only a queued or running one can be cancelled")
        self._keeper.wake_all()
        return await self.run(run)

    async def resume(self, run: str) -> Run:
        """Queue a failed, cancelled or interrupted run again; done steps stay done.

        Raises NotFound, NotNow, QueueFull.
        """
        found = await self._let_go(run)
        self._keeper.arriving.add(run)
        try:
            if not await self._store.resume(found, self._keeper.name, self.limits):
                raise NotNow(
                    f"run {run} is {found.status.value}; only a failed, cancelled or interrupted one can be resumed"
                )
            await self._keeper.own_again(run)
        except QueueFull as error:
            self._count(error.limit)
            raise
        finally:
            self._keeper.arriving.discard(run)
        return await self.run(run)

    async def _let_go(self, run: str) -> Run:
        """Return a run; if it has just ended, wait until its owner has published everything. Raises NotFound."""
        end = time.monotonic() + _LETTING_GO_SECONDS
        while True:
            record = await self.record(run)
            if record.run.status.is_active or not record.owner or time.monotonic() > end:
                return record.run
            await self._keeper.wait_changed(_LOOK_SECONDS)

    async def remove(self, run: str) -> None:
        """Remove an ended run with all its files. Raises NotFound, NotNow."""
        found = await self._let_go(run)
        if not await self._store.remove(run):
            raise NotNow(f"run {run} is {found.status.value}; cancel it first")
        self._keeper.notices.removed(run, found.user)
        await asyncio.to_thread(RunFolder(self._root, run).remove)

    # Reading.

    async def record(self, run: str) -> Record:
        """Return the stored record of a run. Raises NotFound."""
        record = await self._store.record(run)
        if record is None:
            raise NotFound(f"there is no run {run[:60]!r}; it may have been removed")
        return record

    async def run(self, run: str) -> Run:
        """Return a run as it is now. Raises NotFound."""
        record = await self.record(run)
        return msgspec.structs.replace(record.run, seq=record.view.run.seq)

    async def runs(
        self,
        *,
        pipeline: str = "",
        sample: str = "",
        status: RunStatus | None = None,
        user: str = "",
        before: str = "",
        limit: int = 50,
    ) -> list[Run]:
        """Return runs, the newest first; an empty filter matches all. `before`: only runs older than this one."""
        state = status.value if status else ""
        return await self._store.runs(
            limit=min(limit, 500), pipeline=pipeline, sample=sample, status=state, user=user, before=before
        )

    async def wait(self, run: str) -> Run:
        """Return a run when it has finished, failed, been cancelled or interrupted, and this was published."""
        while True:
            record = await self.record(run)
            if not record.status.is_active and not record.run.status.is_active and not record.owner:
                return await self.run(run)
            await self._keeper.wait_changed(_LOOK_SECONDS)

    async def watch(self, connection: HubConnection, run: str, *, log: bool = True) -> None:
        """Send a viewer the state, then every event once and in order. Raises NotFound."""
        await self._viewers.watch(connection, await self.record(run), log=log)

    async def watch_steps(self, connection: HubConnection, run: str) -> None:
        """Send a viewer the events of steps, and close the connection when the run is over. Raises NotFound."""
        await self._viewers.watch_steps(connection, await self.record(run))

    async def log(self, run: str, step: str = "", *, start: int = 0, limit: int = 65_536) -> LogPart:
        """Return a part of a step's log; without `step` that of the failed step, or of the one that began last."""
        found = await self.run(run)
        name = step or _interesting(found)
        if not any(known.name == name for known in found.steps):
            raise NotFound(f"run {run} has no step {step[:60]!r}")
        path = RunFolder(self._root, run).log(name)
        data, begin, size = await asyncio.to_thread(read_range, path, start, max(0, min(limit, _LOG_BYTES)))
        return LogPart(name, begin, data, size)

    async def results(self, run: str) -> list[FileFacts]:
        """Return the files that a run has made so far, first those that a browser may open. Raises NotFound."""
        shown = await self.shown(run)
        files = await asyncio.to_thread(RunFolder(self._root, run).list_results)
        found = [msgspec.structs.replace(file, show=file.name in shown) for file in files]
        return sorted(found, key=lambda file: not file.show)

    async def shown(self, run: str) -> list[str]:
        """Return the names of the results that a browser may open in place. Raises NotFound."""
        record = await self.record(run)
        try:
            return self._definition(record).shown(record.run.sample)
        except (NotFound, ConfigurationError, msgspec.MsgspecError):
            return []  # its definition is of another version, or gone

    async def result(self, run: str, name: str) -> Path:
        """Return the path of a result. Raises NotFound."""
        await self.record(run)
        return await asyncio.to_thread(RunFolder(self._root, run).result, name)

    async def report(self, run: str, key: str, step: str, fraction: float, message: str) -> None:
        """Take progress of a step from another process. Raises NotFound, Forbidden, NotNow."""
        record = await self.record(run)
        if not hmac.compare_digest(key.encode(), record.key.encode()):
            raise Forbidden("this key is not the run's; take `job.key`, or TIDEWIRE_RUN_KEY of the step's environment")
        state = next((known for known in record.run.steps if known.name == step), None)
        if state is None:
            raise NotFound(f"run {run} has no step {step[:60]!r}")
        taken = self._keeper.note_progress(run, step, fraction, message)
        if taken is None and record.status is RunStatus.RUNNING:
            await self._store.add_progress(run, step, fraction, message)
            self._keeper.wake_all()
        elif not taken:
            raise NotNow(f"step {step!r} of run {run} does not run now")

    def _definition(self, record: Record) -> Pipeline:
        if record.definition:
            return msgspec.json.decode(record.definition, type=Pipeline)
        return self.definition(record.run.pipeline)

    def _facts(self, record: Record) -> RunFacts:
        run = record.run
        return RunFacts(
            id=run.id,
            sample=run.sample,
            pipeline=self._definition(record),
            folder=RunFolder(self._root, run.id),
            paths=record.paths,
            key=record.key,
            url=self._url,
            limits=self.limits,
        )


def _new_id() -> str:
    return "r" + "".join(secrets.choice(_LETTERS) for _ in range(12))


def _waiting(step: Step, expected: float | None) -> StepState:
    title, needs = step.title or step.name, step.needs or ()
    return StepState(step.name, title, step.weight, needs, step.retries + 1, expected=expected)


def _encoded(pipeline: Pipeline) -> bytes:
    """Return a pipeline as JSON, to resume a run with its original steps; b"" if it has a coroutine function."""
    if any(step.is_local for step in pipeline.steps):
        return b""
    steps = tuple(msgspec.structs.replace(step, function=None, python=step.reference) if step.function else step
                  for step in pipeline.steps)  # fmt: skip
    return msgspec.json.encode(msgspec.structs.replace(pipeline, steps=steps))


def _interesting(run: Run) -> str:
    failed = next((step for step in run.steps if step.status is StepStatus.FAILED), None)
    begun = max(run.steps, key=lambda step: step.started or 0.0)
    return (failed or begun).name
