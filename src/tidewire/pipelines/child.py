"""Runs one Python function as a step, in a separate process that `boot` has started."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from operator import attrgetter

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.pipelines.errors import StepFailed
from tidewire.pipelines.job import Job, JobFacts

__all__ = ("main",)


def _say(**fields: object) -> None:
    os.write(int(os.environ["TIDEWIRE_PROGRESS_FD"]), msgspec.json.encode(fields) + b"\n")


def _run(reference: str, facts: JobFacts) -> None:
    module, _, name = reference.partition(":")
    try:
        function = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise StepFailed(f"{reference} cannot be imported ({error}); name it as module:function") from None
    job = Job(
        facts, lambda progress, message: _say(progress=progress, message=message), lambda text: print(text, flush=True)
    )
    result = function(job)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def main() -> None:
    """Run the function of a step; the facts of its job are in the environment."""
    if len(sys.argv) != 2 or "TIDEWIRE_JOB" not in os.environ:
        raise ConfigurationError(
            "this module is started for a step by the server; write python = in a pipeline instead"
        )
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        _run(sys.argv[1], msgspec.json.decode(os.environ["TIDEWIRE_JOB"], type=JobFacts))
    except StepFailed as error:
        print(error, file=sys.stderr)
        _say(error=str(error)[:500])
        sys.exit(1)
