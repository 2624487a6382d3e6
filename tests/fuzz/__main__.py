"""`python -m tests.fuzz TARGET --seconds 600`: fuzz for longer; an input that fails is kept in `tests/fuzz/seeds`."""

from __future__ import annotations

import argparse
import hashlib
import time

from tests.fuzz.mutate import FOLDER, inputs
from tests.fuzz.targets import TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else time.time_ns()
    print(f"seed {seed}")
    end, count = time.monotonic() + options.seconds, 0
    for data in inputs(options.target, seed):
        try:
            TARGETS[options.target](data)
        except Exception:
            path = FOLDER / f"{options.target}-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            print(f"input {count} failed; it is kept in {path}")
            raise
        count += 1
        if time.monotonic() > end:
            break
    print(f"{count} inputs did no harm")


if __name__ == "__main__":
    main()
