"""The page of the protocol lists every code, with its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewire.errors import Disconnect
from tidewire.protocols.centrifuge import codes

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "centrifuge-protocol.md"
ALL = [
    value for value in vars(codes).values() if isinstance(value, codes.WireError | codes.Unsubscription | Disconnect)
]


@pytest.mark.parametrize("value", ALL, ids=lambda value: str(value.code))
def test_a_code_is_listed_with_its_words(value: codes.WireError | codes.Unsubscription | Disconnect) -> None:
    words = value.message if isinstance(value, codes.WireError) else value.reason
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {value.code} |")]
    assert row.split("|")[2].strip() == words
    if isinstance(value, codes.WireError):
        assert ("temporary" in row) is value.temporary


def test_every_way_to_break_the_protocol_has_its_code() -> None:
    assert set(codes.DISCONNECTS) == set(codes.Malformed)
