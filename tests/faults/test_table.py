"""The page that says which test breaks what is right: every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "faults.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())
    assert len(named) > 40
    assert not [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]


def test_every_test_of_a_fault_is_on_the_page() -> None:
    page = PAGE.read_text()
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for test in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
            assert path == Path(__file__) or f"{path.name}::{test}`" in page, f"{path.name}::{test}"
