"""What a Python step is given: where things are, and how to say how far it is."""

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
    """One attempt at one step; `progress` and `log` may be called as often as one likes, the newest is told."""

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
        """How many threads it may use."""
        return self._facts.threads

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self._facts.attempt

    @property
    def workdir(self) -> Path:
        """The folder in which the steps of this run work."""
        return Path(self._facts.workdir)

    @property
    def stepdir(self) -> Path:
        """A folder of this step alone, empty at the beginning of each attempt."""
        return Path(self._facts.stepdir)

    @property
    def results(self) -> Path:
        """The folder whose files can be downloaded."""
        return Path(self._facts.results)

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The files that the run was given, by the names of its inputs."""
        return {name: Path(path) for name, path in self._facts.inputs.items()}

    @property
    def key(self) -> str:
        """What `RemoteJob` in another process needs beside `url`, `run` and `step`; it is a secret of this run."""
        return self._facts.key

    @property
    def url(self) -> str:
        """Where the HTTP interface is, as far as the server knows it."""
        return self._facts.url

    async def progress(self, fraction: float, message: str = "") -> None:
        """Say how far this step is, 0 to 1; less than before counts as before."""
        self.progress_nowait(fraction, message)

    def progress_nowait(self, fraction: float, message: str = "") -> None:
        """Say how far this step is, from any thread."""
        self._say(check_fraction(fraction), message[:500])

    def log(self, text: str) -> None:
        """Write a line into the step's log, from any thread."""
        self._log(text)


def check_fraction(fraction: float) -> float:
    """Return a fraction if it is one; raises BadStart."""
    if not 0.0 <= fraction <= 1.0:
        raise BadStart(f"progress {fraction!r} is not between 0 and 1; divide what is done by all there is to do")
    return float(fraction)
