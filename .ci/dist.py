"""Builds a wheel and an sdist into dist/, and checks both in environments of their own, by the tutorial's chat."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
#: What a wheel must have beside the modules, and what neither may.
NEEDED = (
    "server/ui/chat.html",
    "docs/howto/redis.md",
    "skills/tidewire/SKILL.md",
    "server/ui/tidewire.js",
    "py.typed",
    "backends/redis/scripts/publish.lua",
    "schema.sql",
)
FORBIDDEN = re.compile(r"(^|/)(__pycache__|\.venv|\.git|dist|build)/|\.(db|pyc|log)$")
#: The chat of two clients, as the tutorial has it.
TALK = """
import asyncio, sys
from websockets.asyncio.client import connect

async def main(port):
    url = f"ws://127.0.0.1:{port}/ws/"
    async with connect(url + "1", proxy=None) as first, connect(url + "2", proxy=None) as second:
        await second.send("hello")
        for client in (first, second):
            assert await asyncio.wait_for(client.recv(), 20) == "Client #2 says: hello"
    print("the tutorial's chat works")

asyncio.run(main(sys.argv[1]))
"""


def main() -> int:
    """Build and check, and return the exit code."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", DIST], cwd=ROOT, check=True)
    wheel, sdist = next(DIST.glob("*.whl")), next(DIST.glob("*.tar.gz"))
    names = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        packed = archive.getnames()
    for name in NEEDED:
        assert any(found.endswith(name) for found in names), f"the wheel has no {name}"
    for name in (*names, *packed):
        assert not FORBIDDEN.search(name), f"{name} does not belong there"
    for package in (wheel, sdist):
        with tempfile.TemporaryDirectory() as folder:
            _check(package, Path(folder))
        print(f"{package.name}: {package.stat().st_size // 1024} KiB, installed and used")
    return 0


def _check(package: Path, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, package], check=True)
    tutorial = (ROOT / "docs" / "tutorial" / "1-first-chat.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```", tutorial, re.MULTILINE | re.DOTALL)[0]
    (folder / "app.py").write_text(program)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TIDEWIRE"))}
    command = [python, "-m", "tidewire", "run", "app:app", "--port", str(port), "--workers", "2"]
    server = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/")
        subprocess.run([python, "-c", TALK, str(port)], cwd=folder, env=environment, check=True, timeout=60)
    finally:
        server.terminate()
        server.wait(30)


def _wait(address: str) -> None:
    end = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < end, f"nothing answers at {address}"
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
