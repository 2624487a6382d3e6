"""Loads an example as its own process would: its folder comes first, and its modules are its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that loads `examples/NAME/app.py` in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROKER", "memory://")  # the test kit brings its own store; others need no process beside it
    before = set(sys.modules)

    def make(name: str, module: str = "app") -> ModuleType:
        monkeypatch.syspath_prepend(str(EXAMPLES / name))
        return importlib.import_module(module)

    yield make
    for name in set(sys.modules) - before:
        found = getattr(sys.modules[name], "__file__", None) or ""
        if found.startswith(str(EXAMPLES)):
            del sys.modules[name]
