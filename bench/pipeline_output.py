"""What a pipeline costs a program that prints a million lines, beside the same program writing to a file.

    python bench/pipeline_output.py

The goal is a ratio below 2. Alone and as a step take turns; the fastest of each counts, as the machine may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tidewire import Hub
from tidewire.pipelines import Pipeline, PipelineLimits, Pipelines, Progress, RunStatus, Step

_LINES = 1_000_000
_PYTHON = f"for number in range({_LINES}): print('line', number, 'of a program that says a lot')"
_PROGRAMS = {
    "python": (sys.executable, "-I", "-S", "-c", _PYTHON),
    "awk": ("awk", f'BEGIN {{{{ for (n = 0; n < {_LINES}; n++) print "line", n, "of a program that says a lot" }}}}'),
    "seq": ("seq", str(_LINES)),
}
_RULES = {
    "no progress": Progress(),
    "lines": Progress(lines=_LINES),
    "pattern": Progress(pattern=r"line (\d+)000 of"),
}


def alone(command: tuple[str, ...], folder: Path) -> float:
    """Return the seconds of the program alone, writing to a file."""
    arguments = [part.replace("{{", "{").replace("}}", "}") for part in command]
    with (folder / "alone").open("wb") as file:
        began = time.perf_counter()
        subprocess.run(arguments, stdout=file, check=True)
        return time.perf_counter() - began


async def as_step(pipelines: Pipelines, name: str) -> float:
    """Return the seconds of the same program as a step, as its record has them."""
    started = await pipelines.start(name, "S1", new=True)
    run = await pipelines.wait(started.run.id)
    step = run.steps[0]
    if run.status is not RunStatus.FINISHED or step.started is None or step.ended is None:
        raise SystemExit(f"{name} failed: {run.error}")
    return step.ended - step.started


async def measure(folder: Path, repetitions: int) -> None:
    """Print a line for each program and rule."""
    pairs = [(program, rule) for program in _PROGRAMS for rule in _RULES]
    definitions = [
        Pipeline(f"p{number}", (Step("one", _PROGRAMS[program], progress=_RULES[rule], nice=0),))
        for number, (program, rule) in enumerate(pairs)
    ]
    limits = PipelineLimits(log_bytes=1 << 30, log_rate=float(1 << 30))
    async with Hub("memory://") as hub, Pipelines(hub, folder / "runs", definitions, limits=limits) as pipelines:
        for number, (program, rule) in enumerate(pairs):
            times = []
            for _ in range(repetitions):
                by_itself = await asyncio.to_thread(alone, _PROGRAMS[program], folder)
                used = time.process_time()
                stepped = await as_step(pipelines, f"p{number}")
                times.append((by_itself, stepped, time.process_time() - used))
            first, second = min(time[0] for time in times), min(time[1] for time in times)
            own = min(time[2] for time in times)
            print(
                f"{program:7} {rule:12} alone {first * 1000:6.0f} ms   step {second * 1000:6.0f} ms   "
                f"ratio {second / first:4.2f}   of the server's own time {own * 1000:4.0f} ms"
            )


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), repetitions))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"most memory of the server's process: {peak / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
