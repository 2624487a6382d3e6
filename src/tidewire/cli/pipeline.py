"""`tidewire pipeline list|run|runs|log|cancel|resume`, with or without a server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tidewire.cli import flags
from tidewire.cli.pipeline_source import Source, here, there
from tidewire.cli.terminal import load_settings, out, say
from tidewire.errors import ConfigurationError
from tidewire.pipelines.folders import file_problem
from tidewire.pipelines.naming import readable
from tidewire.pipelines.output import plain
from tidewire.pipelines.runs import Run, RunStatus, StepStatus
from tidewire.pipelines.service import LogPart
from tidewire.server.logs import harmless

__all__ = ("pipelines",)

pipelines: typer.Typer = typer.Typer(help="Long jobs with live progress.", no_args_is_help=True)

_LOOK_SECONDS = 0.2
#: Bytes of a line that is kept until its end.
_LONGEST_LINE = 65_536
_COLORS = {
    RunStatus.FINISHED: "green",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "yellow",
    RunStatus.INTERRUPTED: "yellow",
}
#: The exit code of the command for runs that did not finish.
_FAILED = 1

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The name of a run, as `tidewire pipeline runs` shows it.")]
Server = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Ask a server, e.g. http://127.0.0.1:8000.")
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="Its token, for a server that wants one (or TIDEWIRE_TOKEN).")
]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", metavar="NAME=FILE", help="An input of the pipeline; may be repeated.")
]
New = Annotated[bool, typer.Option("--new", help="Start anew, even if the same runs already.")]
Step = Annotated[str, typer.Option("--step", help="Which step; by itself the failed one, or the one begun last.")]
AsItGrows = Annotated[bool, typer.Option("-f", "--follow", help="Go on as the log grows, until the run has ended.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="How many.")]


@pipelines.command(name="list")
def list_pipelines(config: flags.Config = None, server: Server = None, token_file: TokenFile = None) -> None:
    """List the pipelines, and the programs that are not installed."""

    async def work(source: Source) -> None:
        for found in await source.pipelines():
            out.print(f"[bold]{escape(found.name)}[/]  {escape(harmless(found.title))}")
            for missing in found.missing:
                out.print(harmless(f"    step {missing.step} needs {missing.program}: {missing.remedy}"), markup=False)

    _with_source(config, server, token_file, work)


@pipelines.command()
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A pipeline.")],
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help="Letters, digits, '.', '_' and '-'.")],
    inputs: Inputs = None,
    new: New = False,
    config: flags.Config = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Run a pipeline, and show the progress of each step; without a server, Ctrl+C interrupts the run."""
    files = _files(inputs or [])

    async def work(source: Source) -> int:
        started = await source.start(name, sample, files, new=new)
        say(f"run [bold]{started.run.id}[/]" + (" (joined: the same runs already)" if started.joined else ""))
        return await _show(source, started.run)

    _exit(_with_source(config, server, token_file, work))


@pipelines.command()
def runs(limit: Limit = 20, config: flags.Config = None, server: Server = None, token_file: TokenFile = None) -> None:
    """List the runs, the newest first."""

    async def work(source: Source) -> None:
        for found in await source.runs(limit):
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.created))
            status = f"[{_COLORS.get(found.status, 'cyan')}]{found.status.value:11}[/]"
            names = f"{found.pipeline:16} {found.sample:20}"
            out.print(f"[bold]{found.id}[/] {when} {status} {found.progress:3}% {escape(names)} {escape(_why(found))}")

    _with_source(config, server, token_file, work)


@pipelines.command()
def log(
    run: RunId,
    step: Step = "",
    as_it_grows: AsItGrows = False,
    config: flags.Config = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Print the log of a step."""
    with contextlib.suppress(KeyboardInterrupt):
        _with_source(config, server, token_file, lambda source: _print_log(source, run, step, as_it_grows))


@pipelines.command()
def cancel(run: RunId, config: flags.Config = None, server: Server = None, token_file: TokenFile = None) -> None:
    """Cancel a run: its programs get TERM, then KILL."""

    async def work(source: Source) -> None:
        found = await source.cancel(run)
        while found.status.is_active:
            await asyncio.sleep(_LOOK_SECONDS)
            found = await source.run(run)
        say(f"run {found.id} is {found.status.value}")

    _with_source(config, server, token_file, work)


@pipelines.command()
def resume(run: RunId, config: flags.Config = None, server: Server = None, token_file: TokenFile = None) -> None:
    """Resume a run that failed, was cancelled or interrupted, at the first unfinished step."""

    async def work(source: Source) -> int:
        return await _show(source, await source.resume(run))

    _exit(_with_source(config, server, token_file, work))


def _with_source(
    config: Path | None, server: str | None, token_file: Path | None, work: Callable[[Source], Awaitable[int | None]]
) -> int:
    async def opened(context: AbstractAsyncContextManager[Source]) -> int:
        async with context as source:
            return await work(source) or 0

    if server is not None:
        return asyncio.run(opened(there(server, token_file)))
    return asyncio.run(opened(here(load_settings(config, {}).settings)))


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _files(given: list[str]) -> dict[str, Path]:
    files = {}
    for pair in given:
        name, equals, path = pair.partition("=")
        if not equals or not path:
            raise ConfigurationError(f"--input {readable(pair)!r} has no file; write it as --input reads=S1.fastq")
        if not Path(path).is_file():
            raise ConfigurationError(f"--input {readable(pair)!r}: {_no_file(Path(path))}")
        files[name] = Path(path).absolute()  # a link keeps its own name
    return files


def _no_file(path: Path) -> str:
    name = readable(str(path))
    if path.is_dir():
        return f"{name} is a folder; name a file in it"
    return f"{name} {file_problem(path)}" if path.exists() or path.is_symlink() else f"there is no file {name}"


def _why(run: Run) -> str:
    if run.status is RunStatus.QUEUED and run.position:
        return f"number {run.position} in the queue"
    return harmless(run.error)


async def _show(source: Source, run: Run) -> int:
    """Show a run until it ends, and return the exit code."""
    try:
        run = await (_bars(source, run) if out.is_terminal else _lines(source, run))
    except asyncio.CancelledError:
        what = (
            f"tidewire pipeline resume {run.id}" if source.is_here else f"it goes on; tidewire pipeline log -f {run.id}"
        )
        say(f"run {run.id}: {what}")
        raise
    for place in await source.results(run.id) if run.status is RunStatus.FINISHED else ():
        out.print(f"  {harmless(place)}", markup=False, soft_wrap=True)
    color = _COLORS.get(run.status, "cyan")
    say(f"[{color}]{run.status.value}[/] {escape(_why(run))}".rstrip())
    for step in run.steps:
        for line in step.lines if step.status is StepStatus.FAILED else ():
            out.print(f"  {harmless(line)}", markup=False)
    return 0 if run.status is RunStatus.FINISHED else _FAILED


async def _bars(source: Source, run: Run) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=out) as progress:
        tasks: dict[str, TaskID] = {
            step.name: progress.add_task(escape(step.title), total=100, start=False, note="") for step in run.steps
        }
        while True:
            for step in run.steps:
                task = tasks[step.name]
                if step.started is not None and not progress.tasks[task].started:
                    progress.start_task(task)
                note = harmless(step.error or step.message)
                progress.update(task, completed=step.progress, note=note if step.status is not StepStatus.DONE else "")
                if step.ended is not None:
                    progress.stop_task(task)
            if not run.status.is_active:
                return run
            await asyncio.sleep(_LOOK_SECONDS)
            run = await source.run(run.id)


async def _lines(source: Source, run: Run) -> Run:
    """Print changes for a pipe or a file, one line each, in steps of ten percent."""
    printed: dict[str, object] = {}
    while True:
        if run.status is RunStatus.QUEUED and printed.get("") != run.position:
            printed[""] = run.position
            say(f"queued {escape(_why(run))}".rstrip())
        for step in run.steps:
            now = (step.status, step.attempt, step.progress // 10)
            if step.status is not StepStatus.WAITING and printed.get(step.name) != now:
                printed[step.name] = now
                say(f"{escape(step.name)} {step.status.value} {step.progress}% {escape(harmless(step.error))}".rstrip())
        if not run.status.is_active:
            return run
        await asyncio.sleep(_LOOK_SECONDS)
        run = await source.run(run.id)


async def _print_log(source: Source, run: str, step: str, as_it_grows: bool) -> None:
    """Print the log of one step, or, with --follow, of all steps as they begin."""
    printed: dict[str, _Printer] = {}
    heading = ""  # of the step whose log is printed, if it may be one of several
    while True:
        found = await source.run(run)
        begun = sorted((known for known in found.steps if known.started), key=lambda known: known.started or 0.0)
        names = [step] if step or not as_it_grows else [known.name for known in begun]
        for name in names:
            printer = printed.setdefault(name, _Printer())
            async for part in _parts(source, run, name, printer):
                if as_it_grows and not step and part.step != heading:
                    heading = part.step
                    out.print(f"==> {heading} <==", markup=False)
                printer.add(part)
        if not as_it_grows or not found.status.is_active:
            for printer in printed.values():
                printer.finish()
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _parts(source: Source, run: str, step: str, printer: _Printer) -> AsyncIterator[LogPart]:
    """Yield the parts of a log from the place that a printer has reached, up to the present end."""
    part = await source.log(run, step, printer.position)
    while part.data:
        yield part
        part = await source.log(run, step or part.step, printer.position)


class _Printer:
    """Prints the log of one step line by line, as a terminal would show it: without colours and old states of bars."""

    def __init__(self) -> None:
        self.position = 0
        self._rest = b""

    def add(self, part: LogPart) -> None:
        """Print the whole lines of a part; a line that is not at its end may still be redrawn."""
        self.position = part.start + len(part.data)
        lines, line_feed, self._rest = (self._rest + part.data).rpartition(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, line_feed, self._rest = lines + line_feed + self._rest, b"", b""
        self._print(lines + line_feed)

    def finish(self) -> None:
        """Print the last line, which has no end."""
        self._print(self._rest)

    def _print(self, data: bytes) -> None:
        lines = plain(data.decode(errors="replace")).replace("\t", "    ").split("\n")
        out.print("\n".join(harmless(line) for line in lines), end="", markup=False)
        out.file.flush()
