"""Tests that share a server run in one process."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def shared() -> str:
    """Stand for a server that a module starts once."""
    return "shared"


@pytest.mark.xdist_group("named")
def test_a_group_is_told_to_the_one_who_hands_out_tests(request: pytest.FixtureRequest) -> None:
    assert _is_in_group(request, "named")


def test_the_fixture_of_a_module_makes_a_group(request: pytest.FixtureRequest, shared: str) -> None:
    assert _is_in_group(request, __name__)


def _is_in_group(request: pytest.FixtureRequest, name: str) -> bool:
    """Return whether pytest-xdist has written the group into the test's id, from which it reads it."""
    return not hasattr(request.config, "workerinput") or request.node.nodeid.endswith(f"@{name}")
