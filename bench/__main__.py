"""`python -m bench`: runs the suite, prints the table, and writes the results and the plots."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.bars import Medians, judge
from bench.load import OUT, GeneratorError, compile_generator
from bench.measure import Plan, Suite
from bench.report import plots, render, write_json
from bench.subjects import ALL_WORKS, Subject, all_subjects

DOCS = Path(__file__).resolve().parent.parent / "docs" / "bench"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short windows, one repetition; nothing is written into docs/"
    )
    parser.add_argument("--only", default=",".join(ALL_WORKS), help=f"works, of {', '.join(ALL_WORKS)}")
    parser.add_argument(
        "--peers", default="", help="servers, by the beginning of their names (ours,nats,nchan,node,python,tutorial)"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page and the plots go")
    return parser.parse_args(arguments)


def choose(asked: str) -> tuple[list[Subject], list[str]]:
    """Return the servers that can run, and how to install the others."""
    prefixes = tuple(name for name in asked.split(",") if name) or ("",)
    chosen, skipped = [], []
    for subject in all_subjects():
        if subject.name.startswith(prefixes):
            hint = subject.missing()
            if hint is None:
                chosen.append(subject)
            else:
                skipped.append(f"{subject.name} is not installed: {hint}")
    return chosen, skipped


def main() -> int:
    """Run the suite; the exit code is 1 when something that must be reached is not."""
    options = parse(sys.argv[1:])
    works = options.only.split(",")
    unknown = sorted(set(works) - set(ALL_WORKS))
    if unknown:
        print(f"unknown work {', '.join(unknown)}; choose of {', '.join(ALL_WORKS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        compile_generator()
    except GeneratorError as error:
        print(error, file=sys.stderr)
        return 2
    subjects, skipped = choose(options.peers)
    for hint in skipped:
        print(f"skipped: {hint}", flush=True)
    suite, started = Suite(subjects, Plan.quick() if options.quick else Plan()), time.monotonic()
    try:
        suite.run(works)
    except KeyboardInterrupt:
        print("stopped; what was measured so far:", file=sys.stderr)
    finish(suite, skipped, None if options.quick else options.docs)
    print(f"took {time.monotonic() - started:.0f} s", flush=True)
    return 1 if any(bar.passed is False for bar in judge(Medians(suite.runs))) else 0


def finish(suite: Suite, skipped: Sequence[str], docs: Path | None) -> None:
    """Print the page, and write it, the JSON and the plots."""
    page = render(suite, skipped)
    print(f"\n{page}")
    write_json(OUT / "results.json", suite, skipped)
    folder = docs or OUT
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(suite.runs)
    for name, plot in drawn.items():
        (folder / name).write_text(plot.svg())
    images = "\n\n".join(f"![{plot.title}]({name})" for name, plot in drawn.items())
    (folder / "results.md").write_text(f"{page}\n{images}\n" if images else page)


if __name__ == "__main__":
    sys.exit(main())
