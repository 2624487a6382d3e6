"""Runs one Python function as a step, in a separate process that `boot` has started."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import traceback
from operator import attrgetter

import msgspec

from tidewire.errors import ConfigurationError
from tidewire.pipelines.errors import StepFailed
from tidewire.pipelines.job import Job, JobFacts

__all__ = ("main",)

#: Characters of the text of an error.
_ERROR = 500


def _say(**fields: object) -> None:
    # half of a surrogate pair, as in a file name that is not UTF-8, cannot be encoded
    whole = {
        name: text.encode(errors="replace").decode() if isinstance(text, str) else text for name, text in fields.items()
    }
    os.write(int(os.environ["TIDEWIRE_PROGRESS_FD"]), msgspec.json.encode(whole) + b"\n")


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
        _fail(str(error))
    except MemoryError:
        _fail("memory ran out; give the step more (its field memory), or a smaller input")
    except SystemExit as error:
        if isinstance(error.code, str):
            _say(error=error.code[:_ERROR])
        raise
    except Exception as error:
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}")


def _fail(problem: str) -> None:
    _say(error=problem[:_ERROR])
    sys.exit(1)
