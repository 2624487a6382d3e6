"""Compiles the load generator, runs it, and returns what it measured."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

__all__ = ("OUT", "Figures", "GeneratorError", "Latency", "compile_generator", "on_core", "run_generator")

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
GENERATOR_CORE = 1
#: prctl(2)
PR_SET_PDEATHSIG = 1


class GeneratorError(Exception):
    """The generator could not be compiled, or ended without figures; the text says why."""


class Latency(msgspec.Struct, frozen=True, gc=False):
    """Latencies in milliseconds."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


class Figures(msgspec.Struct, frozen=True):
    """What one run of the generator counted within its window; the verification covers the whole run.

    `lost` are gaps in a subscriber's sequence, `missing` what had not come when the generator stopped waiting.
    `generator_cpu`, `server_cpu` and `machine_cpu` are in cores; sizes are in bytes.
    """

    connections: int
    connect_seconds: float
    seconds: float
    deliveries: int
    published: int
    completed: int
    lost: int
    missing: int
    reordered: int
    foreign: int
    disconnected: int
    skipped: int
    pings: int
    generator_cpu: float
    server_cpu: float
    machine_cpu: float
    rss_first: int
    rss_warm: int
    rss_begin: int
    rss_end: int
    latency: Latency
    last: Latency

    @property
    def rate(self) -> float:
        """Deliveries per second."""
        return self.deliveries / self.seconds

    @property
    def efficiency(self) -> float:
        """Deliveries for each second of the server's CPU time: what the rate would be if nothing kept it waiting."""
        used = self.server_cpu * self.seconds
        return self.deliveries / used if used else 0.0

    @property
    def disturbance(self) -> float:
        """Cores that neither the server nor the generator used, and yet were busy."""
        return max(0.0, self.machine_cpu - self.server_cpu - self.generator_cpu)

    @property
    def in_order(self) -> bool:
        """What came to each subscriber came once, in order and without a gap, and nobody was disconnected."""
        return not (self.lost or self.reordered or self.disconnected)

    @property
    def complete(self) -> bool:
        """Every message came to every subscriber, once and in order."""
        return self.in_order and not (self.missing or self.skipped)


def on_core(core: int) -> Callable[[], None]:
    """Return what a child process does first: end with this one, however that ends, and stay on its core."""
    cores = sorted(os.sched_getaffinity(0))
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[core]})

    return prepare


def compile_generator(out: Path = OUT) -> Path:
    """Compile the generator if its sources are newer than the program; raises GeneratorError."""
    sources = sorted((HERE / "generator").glob("*.[ch]"))
    program = out / "generator"
    if program.exists() and program.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return program
    compiler = shutil.which("cc")
    if compiler is None:
        raise GeneratorError(
            "there is no C compiler `cc` for the load generator; install one (apt-get install gcc libc6-dev)"
        )
    out.mkdir(parents=True, exist_ok=True)
    files = [str(source) for source in sources if source.suffix == ".c"]
    made = out / f"generator.{os.getpid()}"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(made), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GeneratorError(f"the load generator does not compile:\n{done.stderr}")
    made.replace(program)
    return program


def run_generator(arguments: dict[str, Any], *, limit: float = 120.0, core: int = GENERATOR_CORE) -> Figures:
    """Run the generator with these options and return its figures; ends it after `limit` seconds.

    Raises GeneratorError when there are no figures.
    """
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    with subprocess.Popen(
        [str(compile_generator()), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=on_core(core),
    ) as process:
        try:
            output, error = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise GeneratorError(f"the load generator did not end within {limit:.0f} s") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise GeneratorError(error.strip() or f"the load generator ended with code {process.returncode}")
    return msgspec.convert(json.loads(output), Figures)
