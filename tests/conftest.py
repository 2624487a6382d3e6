"""What holds for every test."""

from __future__ import annotations

import compileall
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SOURCES = Path(__file__).parent.parent / "src"

# A shell lets what it runs in the background ignore Ctrl+C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow: no example is wrong because it took long.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the sources once: where Python keeps no compiled files, each server would spend half its start on it."""
    if not hasattr(config, "workerinput"):  # not in each process of the suite
        compileall.compile_dir(SOURCES, quiet=2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a module's fixture in one process: in each other one its server would start anew."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("xdist_group") is None:
            fixtures = item._fixtureinfo.name2fixturedefs.values()
            if any(found[-1].scope == "module" for found in fixtures):
                item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Save the figures of `make coverage` now: pytest-xdist kills a process that needs more than 10 s to end."""
    coverage = sys.modules.get("coverage")
    measuring = None if coverage is None else coverage.Coverage.current()
    if measuring is not None and hasattr(session.config, "workerinput"):
        measuring.save()
