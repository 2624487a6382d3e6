"""A feed of prices and a sensor, in a process of its own: `python feed.py sqlite:///dashboard.db`."""

import os
import random
import sys
import time
from collections.abc import Iterator

from pydantic import BaseModel

from tidewire import Publisher, PublishError


class Reading(BaseModel):
    at: float
    value: float = 0.0


STARTS = {"gold": 3_900.0, "copper": 10_200.0, "cellar": 12.5}


def readings() -> Iterator[tuple[str, Reading, str]]:
    """Walk at random from where each began; the key of a second is the same in every process."""
    chance = random.Random()
    values = dict(STARTS)
    while True:
        for name in values:
            values[name] *= 1 + chance.gauss(0, 0.0006)
            now = time.time()
            yield name, Reading(at=now, value=round(values[name], 2)), str(round(now))


if __name__ == "__main__":
    parent = int(sys.argv[2]) if len(sys.argv) > 2 else os.getppid()
    with Publisher(sys.argv[1]) as publisher:
        for number, (name, reading, key) in enumerate(readings()):
            if number % len(STARTS) == 0:
                time.sleep(1 - time.time() % 1)
                if os.getppid() != parent:  # the dashboard was killed
                    break
            try:
                publisher.publish(name, reading.model_dump(), key=key)
            except PublishError as error:
                print(f"not published: {error}", file=sys.stderr)
