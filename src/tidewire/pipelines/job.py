"""The argument of a Python step: its inputs and folders, and methods to report progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tidewire.pipelines.errors import BadStart

__all__ = ("Job", "JobFacts", "check_fraction")


class JobFacts(msgspec.Struct, frozen=True):
    """The facts of a job, as they travel to another process."""

    run: str
    step: str
    sample: str
    threads: int
    attempt: int
    workdir: str
    stepdir: str
    results: str
    inputs: dict[str, str]
    key: str = ""
    url: str = ""


class Job:
    """One attempt at one step. `progress` and `log` may be called at any rate; the newest progress is published."""

    __slots__ = ("_facts", "_log", "_say")

    def __init__(self, facts: JobFacts, say: Callable[[float, str], None], log: Callable[[str], None]) -> None:
        self._facts = facts
        self._say = say
        self._log = log

    @property
    def run(self) -> str:
        """The name of the run."""
        return self._facts.run

    @property
    def step(self) -> str:
        """The name of the step."""
        return self._facts.step

    @property
    def sample(self) -> str:
        """The name of the sample."""
        return self._facts.sample

    @property
    def threads(self) -> int:
        """The number of threads that it may use."""
        return self._facts.threads

    @property
    def attempt(self) -> int:
        """The number of this attempt; 1 is the first."""
        return self._facts.attempt

    @property
    def workdir(self) -> Path:
        """The working folder that all steps of this run share."""
        return Path(self._facts.workdir)

    @property
    def stepdir(self) -> Path:
        """A folder of this step alone, emptied before each attempt."""
        return Path(self._facts.stepdir)

    @property
    def results(self) -> Path:
        """The folder whose files can be downloaded."""
        return Path(self._facts.results)

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The input files of the run by name."""
        return {name: Path(path) for name, path in self._facts.inputs.items()}

    @property
    def key(self) -> str:
        """The secret key of this run, which a `RemoteJob` in another process needs."""
        return self._facts.key

    @property
    def url(self) -> str:
        """The address of the HTTP interface; "" when the server does not know it."""
        return self._facts.url

    async def progress(self, fraction: float, message: str = "") -> None:
        """Report progress, 0 to 1; a lower value than before is ignored."""
        self.progress_nowait(fraction, message)

    def progress_nowait(self, fraction: float, message: str = "") -> None:
        """Report progress from any thread."""
        self._say(check_fraction(fraction), message[:500])

    def log(self, text: str) -> None:
        """Write a line into the step's log, from any thread."""
        self._log(text)


def check_fraction(fraction: float) -> float:
    """Return a fraction if it is between 0 and 1. Raises BadStart."""
    if not 0.0 <= fraction <= 1.0:
        raise BadStart(f"progress {fraction!r} is not between 0 and 1; divide the work that is done by all of it")
    return float(fraction)
