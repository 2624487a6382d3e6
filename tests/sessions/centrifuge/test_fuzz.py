"""Short runs of the fuzzer, and the long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sessions.centrifuge.fuzz import fuzz
from sessions.centrifuge.fuzz_server import fuzz_server


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


def test_frames_of_strangers_do_a_server_no_harm(tmp_path: Path) -> None:
    ends, _ = fuzz_server(tmp_path, 3_000, seed=1)
    assert {200, 400, 1000, 3500, 3501} <= set(ends)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_million_frames_of_strangers_do_a_server_no_harm(tmp_path: Path) -> None:
    ends, grown = fuzz_server(tmp_path, 1_000_000, seed=7)
    assert ends[3501] > 1_000
    assert grown < 32
