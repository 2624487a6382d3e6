"""`useChat` of Vercel's AI SDK, as npm has it: it asks, resumes in a second tab, and stops; and tidewire.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import tidewire
from ai_sdk.serving import serving
from helpers.node_packages import node_modules
from requirements import require

HERE = Path(__file__).parent


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path) as url:
        yield url


def test_use_chat_asks_resumes_and_stops(base: str) -> None:
    require(shutil.which("node"), "apt-get install nodejs")
    command = ["node", str(HERE / "drive.mjs"), str(node_modules(HERE)), base]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    whole = "".join(f"word{n} " for n in range(200))
    assert [told[name] for name in ("first", "second", "late")] == [whole] * 3
    assert told["statuses"] == ["ready"] * 5
    assert told["idle"] == 0
    assert told["stopped"]
    assert told["errors"] == []
    assert told["refused"] == ["there is no answer"]


def test_the_sdks_read_a_text_from_its_middle_on(base: str) -> None:
    require(shutil.which("node"), "apt-get install nodejs")
    module = Path(tidewire.__file__).parent / "server" / "ui" / "tidewire.js"
    packages = node_modules(HERE.parent / "interop")
    command = ["node", str(HERE / "texts.mjs"), str(packages), str(module), base.rpartition(":")[2]]
    body = {"id": "one", "messages": [{"parts": [{"text": "100"}]}]}
    with httpx.stream("POST", f"{base}/api/chat", json=body, timeout=30) as asked:
        lines = asked.iter_lines()
        assert any("text-delta" in line for line in lines)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = "".join(f"word{n} " for n in range(100))
    for told in json.loads(done.stdout):
        assert (told["text"], told["end"]) == (whole, "done")
        assert told["count"] > 1
