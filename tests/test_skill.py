"""What coding assistants are given: the skill in the package, whose programs and tests run, and llms.txt."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tidewire import Hub

ROOT = Path(__file__).parents[1]
SKILL = ROOT / "src" / "tidewire" / ".agents" / "skills" / "tidewire" / "SKILL.md"


def test_the_skill_says_when_it_is_of_use() -> None:
    head = SKILL.read_text().split("---")[1]
    assert re.search(r"^name: tidewire$", head, re.M)
    assert re.search(r"^description: .{80,}$", head, re.M)


def test_its_programs_pass_their_own_tests(tmp_path: Path) -> None:
    programs = re.findall(r"^```python\n(.*?)^```", SKILL.read_text(), re.M | re.S)
    for number, program in enumerate(programs):
        (tmp_path / f"test_{number}.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{sum(program.count('def test_') for program in programs)} passed" in done.stdout


def test_the_skill_names_verbs_that_exist() -> None:
    named = set(re.findall(r"\bhub\.(\w+)", SKILL.read_text()))
    assert {"set", "stream", "on", "listen"} <= named
    assert not [name for name in named if not hasattr(Hub, name)]


def test_llms_txt_names_pages_that_exist() -> None:
    text = (ROOT / "docs" / "llms.txt").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]
    assert {f"howto/{page}.md" for page in ("maps", "streams", "state", "events")} <= set(links)


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link() -> None:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    subprocess.run([sys.executable, ROOT / ".ci" / "site.py"], cwd=ROOT, check=True, timeout=300)
