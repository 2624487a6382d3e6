"""The library example runs exactly as README.md prints it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def example() -> str:
    """The first Python block of the README that uses hub.connect."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    return next(block for block in blocks if "hub.connect" in block)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "app.py").write_text(example())
    listener = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, "-m", "uvicorn", "app:app", "--fd", str(listener.fileno()), "--log-level", "error"]
    process = subprocess.Popen(command, cwd=tmp_path, pass_fds=[listener.fileno()])
    port = int(listener.getsockname()[1])
    listener.close()
    yield port
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)


def test_the_readmes_example_runs_as_printed(port: int) -> None:
    async def main() -> None:
        url = f"ws://127.0.0.1:{port}/ws/"
        received: list[str] = []
        async with connect(url + "1", proxy=None) as first:
            async with connect(url + "2", proxy=None) as second:
                for text in ("hello", "é"):
                    await second.send(text)
                    for client in (first, second):
                        assert await client.recv() == f"Client #2 says: {text}"
            assert await first.recv() == "Client #2 left the chat"
            async with connect(url + "3", proxy=None) as late:
                received = [str(await late.recv()) for _ in range(3)]
        assert received == ["Client #2 says: hello", "Client #2 says: é", "Client #2 left the chat"]
        with pytest.raises(Exception, match="403"):
            async with connect(url + "no-number", proxy=None):
                pass

    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(limited())


def test_the_example_is_the_one_of_the_design() -> None:
    text = example()
    for verb in ("Hub(", "hub.lifespan", "hub.connect(websocket, user=", "leave=f", "connection.iter_text()"):
        assert verb in text


def test_the_packages_readme_leads_nowhere_that_is_not_there() -> None:
    """What an index of packages shows has no links into the repository, and names pages that the package has."""
    command = [sys.executable, "-m", "hatch_fancy_pypi_readme"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert not re.search(r"`make |PATH_TO|no release yet|examples/", text)
    pages = re.findall(r"\(`((?:\w+/)?[\w-]+)`\)", text)
    assert len(pages) > 20
    assert not [page for page in pages if not (ROOT / "docs" / f"{page}.md").exists()]
    assert "## Install" in text
    assert "hub.connect" in text
    assert "## What it does not do" in text
