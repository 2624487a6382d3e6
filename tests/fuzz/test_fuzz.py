"""A short run of each fuzzer; `python -m tests.fuzz TARGET` runs one for longer."""

from __future__ import annotations

import time

import pytest

from .mutate import inputs, kept
from .targets import TARGETS

#: Seconds for each target: together a minute at most.
_SECONDS = 2.0


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_of_strangers_do_no_harm(target: str) -> None:
    end, count = time.monotonic() + _SECONDS, 0
    for data in inputs(target, seed=1):
        TARGETS[target](data)
        count += 1
        if time.monotonic() > end:
            break
    assert count > 100


@pytest.mark.parametrize("target", TARGETS)
def test_what_has_failed_once_does_not_fail_again(target: str) -> None:
    for data in kept(target):
        TARGETS[target](data)
