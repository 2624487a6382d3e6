"""`python -m bench`: runs the suite, prints the tables, stores the results, and writes the pages from them."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import readme
from bench.bars import Medians, judge
from bench.load import OUT, GeneratorError, compile_generator
from bench.measure import Plan, Suite
from bench.ours import OURS
from bench.peers.subjects import PEERS
from bench.report import plots, render
from bench.results import Results, Stamp, regressions
from bench.subjects import ALL_WORKS, QUICK_WORKS, Subject

ROOT = Path(__file__).resolve().parent.parent
DOCS, README, RESULTS = ROOT / "docs" / "bench", ROOT / "README.md", "results.json"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some works, short windows; stored only with --docs")
    parser.add_argument("--only", default="", help=f"works, of {', '.join(ALL_WORKS)}")
    parser.add_argument(
        "--peers", default="", help="servers, by the beginning of their names (ours,nats,uvicorn,go-centrifuge)"
    )
    parser.add_argument(
        "--docs", type=Path, help="where the results and the pages go (default: docs/bench, unless --quick)"
    )
    return parser.parse_args(arguments)


def choose(asked: str) -> tuple[list[Subject], list[str]]:
    """Return the servers that can run, and how to install the others."""
    prefixes = tuple(name for name in asked.split(",") if name) or ("",)
    chosen, skipped = [], []
    for subject in (*OURS, *PEERS):
        if subject.name.startswith(prefixes):
            hint = subject.missing()
            if hint is None:
                chosen.append(subject)
            else:
                skipped.append(f"{subject.name} is not installed: {hint}")
    return chosen, skipped


def main() -> int:
    """Run the suite; the exit code is 1 when something that must be reached is not, or a ratio has become worse."""
    options = parse(sys.argv[1:])
    works = options.only.split(",") if options.only else (QUICK_WORKS if options.quick else ALL_WORKS)
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
    docs = None if options.peers else options.docs or (None if options.quick else DOCS)
    try:
        suite.run(works)
    except KeyboardInterrupt:
        print("stopped; what was measured so far:", file=sys.stderr)
        docs = None
    worse = finish(suite, skipped, docs)
    print(f"took {time.monotonic() - started:.0f} s", flush=True)
    return 1 if worse or any(bar.passed is False for bar in judge(Medians(suite.runs))) else 0


def finish(suite: Suite, skipped: Sequence[str], docs: Path | None) -> list[str]:
    """Print the page; store the results where they are whole, and write the pages; return what has become worse."""
    stored = Results.read(DOCS / RESULTS)
    worse = regressions(stored, suite.runs)
    results = (stored if docs else Results()).renewed(suite.runs, [*skipped, *suite.failures], Stamp.now())
    folder = docs or OUT
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / RESULTS)
    page, drawn = render(results), plots(results.runs)
    print(f"\n{page}")
    for name, plot in drawn.items():
        (folder / name).write_text(plot.svg())
    images = "\n\n".join(f"![{plot.title}]({name})" for name, plot in drawn.items())
    (folder / "results.md").write_text(f"{page}\n{images}\n" if images else page)
    if docs is not None and docs.resolve() == DOCS:
        readme.write(README, results)
    for line in worse:
        print(f"worse than before: {line}", flush=True)
    return worse


if __name__ == "__main__":
    sys.exit(main())
