"""What each failure says of the store, and of the publications that it has met."""

from __future__ import annotations

import asyncpg
import pytest

from tidewire.backends.postgres.pooler import refusal
from tidewire.backends.postgres.server_errors import is_away, is_certain


@pytest.mark.parametrize(
    ("error", "away", "certain"),
    [
        (refusal("the server"), True, True),  # a session that is no session is found out before it is used
        (asyncpg.ReadOnlySQLTransactionError("it is a standby"), True, True),
        (asyncpg.PostgresConnectionError("it is gone"), True, False),
        (OSError("it is gone"), True, False),
        (asyncpg.DiskFullError("it is full"), False, True),
    ],
)
def test_what_a_failure_says(error: BaseException, away: bool, certain: bool) -> None:
    assert is_away(error) is away
    assert is_certain(error) is certain
