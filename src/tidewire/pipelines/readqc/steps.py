"""The steps of the pipeline `readqc`, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidewire.pipelines.errors import StepFailed
from tidewire.pipelines.job import Job
from tidewire.pipelines.readqc import work
from tidewire.pipelines.readqc.broken import BrokenFastq

__all__ = ("look", "measure")


def look(job: Job) -> None:
    """Read the beginning of the file; fail when it is not FASTQ."""
    with _explained(job):
        job.log(work.look(job.inputs["reads"]))


def measure(job: Job) -> None:
    """Read the whole file, and write the report into the results."""
    with _explained(job):
        summary = work.measure(job.inputs["reads"], job.sample, job.results, job.progress_nowait)
    job.log(f"{summary.reads:,} reads, {summary.bases:,} bases")
    for remark in summary.remarks:
        job.log(remark)


@contextmanager
def _explained(job: Job) -> Iterator[None]:
    try:
        yield
    except BrokenFastq as error:
        raise StepFailed(f"{job.inputs['reads'].name}: {error}") from None
