"""`tidewire docs`: the pages that error texts name can be read with the package alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _docs(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidewire", "docs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_page_is_shown_and_a_wrong_name_gets_a_hint() -> None:
    shown = dict(line.split(None, 1) for line in _docs().stdout.splitlines())
    assert shown["tutorial/1-first-chat"] == "First chat in ten minutes"
    assert shown["decisions/msgspec"]
    assert _docs("skill").stdout.startswith("---\nname: tidewire\n")
    for name in ("howto/redis", "docs/howto/redis.md"):
        assert _docs(name).stdout == (ROOT / "docs" / "howto" / "redis.md").read_text()  # to be copied from
    wrong = _docs("howto/redes")
    assert wrong.returncode == 2
    assert "did you mean howto/redis?" in wrong.stderr


def test_error_texts_name_pages_that_are_there() -> None:
    named: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        named.update(re.findall(r"tidewire docs ([a-z]+/[\w-]+)", path.read_text()))
    assert len(named) >= 4
    assert not [name for name in named if not (ROOT / "docs" / f"{name}.md").exists()]
