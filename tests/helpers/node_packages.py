"""Published packages of npm that a test drives, installed outside of the tree."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from requirements import require

__all__ = ("node_modules",)


def node_modules(here: Path) -> Path:
    """Return the folder of the pinned packages, which are installed into the user's cache when they are not there."""
    require(shutil.which("npm"), "apt-get install npm")
    pins = (here / "package.json", here / "package-lock.json")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()
    folder = cache / "tidewire" / f"{here.name}-{digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".installed").exists():
            for pin in pins:
                shutil.copy(pin, folder)
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
            require(done.returncode == 0, f"npm packages of {pins[0].name}: {done.stderr[-300:]}")
            (folder / ".installed").touch()
    return folder
