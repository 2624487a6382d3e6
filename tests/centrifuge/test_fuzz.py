"""Short runs of the fuzzer, and the long one."""

from __future__ import annotations

import asyncio

import pytest

from centrifuge.fuzz import fuzz


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_frames_of_strangers_do_no_harm(seed: int) -> None:
    ends = asyncio.run(fuzz(1_500, seed))
    assert {3501, 3500} <= set(ends)
    assert 3004 not in ends


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_million_frames_of_strangers_do_no_harm() -> None:
    ends = asyncio.run(fuzz(1_000_000, seed=7))
    assert ends[3501] > 10_000
    assert 3004 not in ends
