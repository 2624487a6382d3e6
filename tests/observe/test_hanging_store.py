"""A store that hangs answers no call of any method."""

from __future__ import annotations

from typing import Any

import pytest

from tidewire.backends import open_backend
from tidewire.backends.base import Broker, Presence
from tidewire.limits import Limits
from tidewire.observe.hanging_store import Hang, hanging


@pytest.mark.parametrize(("place", "contract"), [(0, Broker), (1, Presence)])
def test_every_question_of_the_contract_waits(place: int, contract: Any) -> None:
    made: Any = hanging(*open_backend("memory://", Limits()), Hang(1.0))[place]
    own = set(vars(type(made.judged)))
    harmless = {"start", "aclose", "unsubscribe"}
    assert contract.__abstractmethods__ - own <= harmless
