"""Plays a run that a seed decides, and plays it again: `python -m tests.model.simulate --store redis --seed 7`."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from model.stores import STORES, running
from model.world import CHANNELS, Store, World

__all__ = ("simulate",)

NAMES = tuple("uvwxyz")
#: How often each step comes.
WEIGHTS = {"publish": 50, "join": 20, "leave": 12, "follow": 8, "settle": 5, "kill": 2, "trim": 2, "lose": 1}


def simulate(store: Store, seed: int, steps: int, *, tell: Callable[[str], None] = lambda line: None) -> None:
    """Play so many steps; raises AssertionError, with the seed and the step, where a promise is broken."""
    chance = random.Random(seed)
    world = World(store)
    try:
        for number in range(steps):
            name = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            arguments = _arguments(name, chance, store)
            tell(f"{number}: {name} {arguments}")
            try:
                getattr(world, name)(**arguments)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {number}: {error}") from error
        world.settle()
        world.check_presence()
    finally:
        world.close()


def _arguments(name: str, chance: random.Random, store: Store) -> dict[str, object]:
    """Choose what a step is about; the same choices are made for every store."""
    channel, client, node = chance.choice(CHANNELS), chance.choice(NAMES), chance.randrange(2)
    history, counts = chance.choice((0, 5)), [chance.choice((0, 1, 3, 8, 25)), chance.choice((0, 1, 3, 8))]
    return {
        "publish": {"channel": channel, "counts": counts},
        "join": {"name": client, "node": node, "history": history},
        "leave": {"name": client},
        "follow": {"name": client, "channel": channel, "history": history},
        "kill": {"node": node, "channel": channel, "count": counts[0]},
        "trim": {"channel": channel},
    }.get(name, {})


def main() -> None:
    """Play runs with one seed after another, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=[*STORES], default="sqlite")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--verbose", action="store_true", help="tell every step")
    given = parser.parse_args()
    seeds = [given.seed] if given.seed is not None else [random.randrange(1 << 32) for _ in range(given.runs)]
    for seed in seeds:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, running(given.store, Path(folder)) as store:
            simulate(store, seed, given.steps, tell=print if given.verbose else lambda line: None)
        print(
            f"{given.store} --seed {seed} --steps {given.steps}: kept its promises ({time.monotonic() - started:.1f} s)"
        )


if __name__ == "__main__":
    main()
