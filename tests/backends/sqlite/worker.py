"""What a process of its own does with the file of a store, beside what all stores have (support/worker.py)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tidewire.backends.sqlite import SqlitePresence
from tidewire.messages import Announcement, Member


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def hold(path: Path, options: dict[str, Any]) -> None:
    """Take the write lock as a writer does, and keep it until killed."""
    from tidewire.backends.sqlite.fair_lock import FairLock
    from tidewire.backends.sqlite.folder import node_folder

    lock = FairLock(node_folder(path), "write")
    while not lock.try_acquire():
        await asyncio.sleep(0.001)
    say("ready")
    await asyncio.Event().wait()


async def attend(path: Path, options: dict[str, Any]) -> None:
    """Be present, and touch the lease until killed."""
    presence = SqlitePresence(path, **options.get("leases", {}))
    await presence.start("worker")
    for n in range(options["members"]):
        await presence.join("a", Member(f"{os.getpid()}-{n}", f"user {n}"), Announcement(b"bye"))
    say("ready")
    while True:
        say(await presence.touch())
        await asyncio.sleep(0.2)


MODES = {mode.__name__: mode for mode in (hold, attend)}

if __name__ == "__main__":
    asyncio.run(MODES[sys.argv[2]](Path(sys.argv[1]), json.loads(sys.argv[3])))
