"""The fixture under every plugin that runs asynchronous tests, in plain tests, and in several processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

APPLICATION = """
import pytest
from fastapi import FastAPI, WebSocket
from tidewire import Hub

hub = Hub()
app = FastAPI(lifespan=hub.lifespan)

@app.websocket("/ws/{room}")
async def room(websocket: WebSocket, room: int):
    async with hub.connect(websocket) as connection:
        async for text in connection.iter_text():
            await hub.publish(f"room:{room}", {"text": text})
"""
BODY = """
    async with realtime(app) as rt:
        ann, bob = await rt.connect("/ws/1", user="ann"), await rt.subscriber("room:1", user="bob")
        await ann.send("hello")
        await bob.expect({"text": "hello"})
        await bob.expect_nothing()
        bob.cut(); await ann.send("again"); await bob.back()
        await bob.expect({"text": "again"}, recovered=True)
        await rt.advance(40)
"""
PLAIN = BODY.replace("async with", "with").replace("await ", "")
ANYIO = f"""{APPLICATION}
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_room(realtime):{BODY}
"""
UVLOOP = ANYIO.replace('return "asyncio"', 'return ("asyncio", {"use_uvloop": True})')
REFUSED = """        with pytest.raises(Exception, match="cannot be moved"):
            await rt.advance(40)
"""
TRIO = ANYIO.replace('"asyncio"', '"trio"').replace(
    BODY,
    '\n    with pytest.raises(Exception, match="a fixture anyio_backend"):\n        async with realtime(app): ...\n',
)
ASYNC = f"{APPLICATION}\nasync def test_room(realtime):{BODY}"
STRICT = ASYNC.replace("async def test_room", "@pytest.mark.asyncio\nasync def test_room")
SYNC = f"{APPLICATION}\ndef test_room(realtime):{PLAIN}"
UVLOOP = UVLOOP.replace("        await rt.advance(40)\n", REFUSED)


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ({"anyio": ANYIO, "uvloop": UVLOOP, "trio": TRIO, "strict": STRICT, "plain": SYNC}, ()),
        ({"auto": ASYNC}, ("--asyncio-mode=auto",)),
        pytest.param({"auto": ASYNC, "plain": SYNC}, ("--asyncio-mode=auto", "-n", "2"), marks=pytest.mark.slow),
    ],
    ids=["one process", "auto", "xdist"],
)
def test_the_manual_runs(files: dict[str, str], options: tuple[str, ...], tmp_path: Path) -> None:
    for name, code in files.items():
        (tmp_path / f"test_{name}.py").write_text(code)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(files)} passed" in result.stdout


def test_a_failure_shows_the_line_of_the_test_and_none_of_the_kit(tmp_path: Path) -> None:
    failing = SYNC.replace('bob.expect({"text": "hello"})', 'bob.expect({"text": "helo"}, within=0.1)')
    (tmp_path / "test_plain.py").write_text(failing)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert re.search(r"within=0\.1\)\nE +AssertionError: bob did not get", result.stdout), result.stdout
    assert "asyncio/" not in result.stdout


def test_the_package_itself_needs_no_pytest() -> None:
    code = "import sys, tidewire; sys.exit(any(name.startswith(('pytest', '_pytest')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_plugin_costs_a_test_run_next_to_nothing() -> None:
    code = "import sys, tidewire.testing.plugin; sys.exit('fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
