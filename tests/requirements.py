"""What a test needs that pip cannot install: it is skipped without, or fails where everything is required."""

from __future__ import annotations

import os

import pytest

__all__ = ("require",)


def require(condition: object, what_to_install: str) -> None:
    """Skip the test unless the condition holds; with `TIDEWIRE_REQUIRE_ALL=1` that is a failure."""
    if condition:
        return
    if os.environ.get("TIDEWIRE_REQUIRE_ALL") == "1":
        pytest.fail(f"needs {what_to_install}", pytrace=False)
    pytest.skip(f"needs {what_to_install}")
