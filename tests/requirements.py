"""What a test needs and pip cannot install: it is skipped with one line, or fails where everything must be there."""

from __future__ import annotations

import os

import pytest

__all__ = ("require",)


def require(condition: object, install: str) -> None:
    """Skip the test unless the condition holds; with TIDEWIRE_REQUIRE_ALL=1 fail it. `install` says what to install."""
    if condition:
        return
    if os.environ.get("TIDEWIRE_REQUIRE_ALL") == "1":
        pytest.fail(f"missing on this machine: {install}", pytrace=False)
    pytest.skip(f"missing on this machine: {install}")
