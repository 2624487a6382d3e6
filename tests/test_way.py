"""The way of one message through our files stays short; `make trace` prints it."""

from __future__ import annotations

import pytest

from helpers.tracing import WAYS, trace


def test_one_plain_message_passes_few_files() -> None:
    # a timer of the loop may fall into the way of one message, not of three
    way = min((trace(WAYS["plain"]) for _ in range(3)), key=lambda way: (len(way.files), way.crossings))
    assert len(way.files) <= 14, f"\n{way}"
    assert way.crossings <= 24, f"\n{way}"


@pytest.mark.parametrize("name", WAYS)
def test_a_way_begins_at_the_link_and_ends_at_it(name: str) -> None:
    files = trace(WAYS[name]).files
    assert files[0] == "links/phases.py"
    assert any(file.startswith("engine/") for file in files)
    assert any(file.startswith("backends/") for file in files)
