"""The numbers of the transaction table: in the order of the commits, and given once where nobody came between."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from engine.support import run
from helpers.stores import postgres_database
from tidewire.backends.postgres.schema import prepare

from .helpers import client_of

#: What transactions do, in this order (`a1`: transaction a writes row 1; `a!`: it commits), the rows by their numbers
#: then, and how many numbers were taken.
CASES = {
    "a1 a2 a3 a!": ("a1 a2 a3", 3),
    "a1 a! b1 b2 b!": ("a1 b1 b2", 3),
    "a1 b1 b2 b! a2 a!": ("b1 b2 a1 a2", 6),
    "a1 b1 a2 a! b!": ("a1 a2 b1", 6),
    "a1 a2 b1 b! a3 a!": ("b1 a1 a2 a3", 7),
    "a1 a2 b1 a! b!": ("a1 a2 b1", 6),
    # the rows are numbered before the commit, and then more come
    "a1 a2 a+ a3 a4 a!": ("a1 a2 a3 a4", 4),
    "a1 a2 a+ a- a3 b1 b! a4 a!": ("a1 a2 b1 a3 a4", 7),
    # what a savepoint wrote is numbered anew, in its order
    "a1 a( a2 a) a3 a!": ("a1 a2 a3", 6),
}
TAKEN = "SELECT last_value FROM tidewire_outbox_id_seq"
STEPS = {
    "!": "COMMIT",
    "+": "SET CONSTRAINTS ALL IMMEDIATE",
    "-": "SET CONSTRAINTS ALL DEFERRED",
    "(": "SAVEPOINT s",
    ")": "RELEASE s",
}


@pytest.mark.parametrize("steps", CASES)
def test_rows_have_the_order_of_the_commits_and_new_numbers_only_if_somebody_came_between(steps: str) -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner, AsyncExitStack() as stack:
            await prepare(owner)
            before = await owner.fetchval(TAKEN)
            open_: dict[str, Any] = {}
            for name, step in steps.split():
                if name not in open_:
                    open_[name] = await stack.enter_async_context(client_of(url))
                    await open_[name].execute("BEGIN")
                await open_[name].execute(STEPS.get(step, f"SELECT tidewire_publish('{name}{step}', '1')"))
            rows = await owner.fetch("SELECT channel FROM tidewire_outbox ORDER BY id")
            taken = await owner.fetchval(TAKEN) - before
            assert (" ".join(row["channel"] for row in rows), taken) == CASES[steps]

    run(scenario(postgres_database()), 30)


def test_a_large_transaction_writes_each_row_once() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner:
            await prepare(owner)
            before = await owner.fetchval(TAKEN)
            await owner.execute(
                "INSERT INTO tidewire_outbox (channel, format, data) SELECT 'a', 2, '1' FROM generate_series(1, 5000)"
            )
            assert await owner.fetchval(TAKEN) == before + 5000
            assert await owner.fetchval("SELECT max(id) - min(id) + 1 FROM tidewire_outbox") == 5000
            assert await owner.fetchval("SELECT current_setting('tidewire.kept', true)") == ""

    run(scenario(postgres_database()), 60)
