from __future__ import annotations

import asyncio
import logging

import pytest

from tidewire.errors import PermissionDenied
from tidewire.support.refusals import Refusals, kind_of, note_refusal


def test_refusals_are_counted_kept_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse() -> Refusals:
        for number in range(1_000):
            note_refusal("rate", f"number {number}", user="ann", address="192.0.2.1")
        note_refusal("slow", "x" * 5_000)
        return Refusals.of(asyncio.get_running_loop())

    with caplog.at_level(logging.INFO, "tidewire"):
        refusals = asyncio.run(refuse())
    assert refusals.counts == {"rate": 1_000, "slow": 1}
    assert len(refusals.latest) == 200
    assert (refusals.latest[-2].why, len(refusals.latest[-1].why)) == ("number 999", 200)
    assert [record.getMessage() for record in caplog.records] == [
        "refused (rate): number 0; user 'ann' from 192.0.2.1",
        f"refused (slow): {'x' * 199}…; user '' from -",
    ]


def test_kinds_are_bounded() -> None:
    async def refuse() -> Refusals:
        for number in range(1_000):
            note_refusal(f"kind{number}", "why")
        return Refusals.of(asyncio.get_running_loop())

    counts = asyncio.run(refuse()).counts
    assert len(counts) <= 101
    assert counts.total() == 1_000


def test_an_exception_has_a_kind() -> None:
    assert kind_of(PermissionDenied("no")) == "permission_denied"
