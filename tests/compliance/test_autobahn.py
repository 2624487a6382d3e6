"""The Autobahn suite finds nothing in the sections that are RFC 6455's wire, over both links."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compliance import autobahn

#: How many cases the sections hold: fewer would mean that the suite did not run to its end.
_AT_LEAST = 240


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rfc_6455(tmp_path: Path) -> None:
    try:
        outcomes = autobahn.check(autobahn.CASES, tmp_path)
    except autobahn.Missing as error:
        pytest.skip(str(error))
    assert {name: autobahn.failures(of) for name, of in outcomes.items()} == {name: [] for name in outcomes}
    assert len(outcomes) == 3
    assert min(len(of) for of in outcomes.values()) > _AT_LEAST


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_permessage_deflate(tmp_path: Path) -> None:
    try:
        outcomes = autobahn.check(autobahn.DEFLATE_CASES, tmp_path, deflate=True)
    except autobahn.Missing as error:
        pytest.skip(str(error))
    assert {name: autobahn.failures(of) for name, of in outcomes.items()} == {name: [] for name in outcomes}
