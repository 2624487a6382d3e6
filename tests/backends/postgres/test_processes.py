"""Nodes in processes of their own on one PostgreSQL: together, killed, frozen, and as workers of one server."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.processes import (
    acknowledged_is_kept,
    dead_are_claimed_in_time,
    same_order_exactly_once,
    two_workers_are_one_chat,
)
from support.stores import postgres_database, start_postgres


def test_processes_deliver_the_same_order_exactly_once() -> None:
    assert same_order_exactly_once(postgres_database()) == list(range(1, 2_001))


def test_what_a_killed_process_acknowledged_is_there() -> None:
    acknowledged_is_kept(postgres_database())


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_the_members_of_a_dead_or_frozen_process_can_be_claimed_after_6_to_12_seconds(signum: signal.Signals) -> None:
    dead_are_claimed_in_time(postgres_database(), signum)


def test_two_workers_of_a_server_are_one_chat(tmp_path: Path) -> None:
    with start_postgres() as store:
        two_workers_are_one_chat(tmp_path / "run", store.url(), store)
