"""The store of the test kit keeps the contract that every store keeps."""

from __future__ import annotations

import time

import pytest

from tidewire.limits import Limits
from tidewire.testing import BrokerContract, PresenceContract, StoreUnderTest
from tidewire.testing.simulated_store import SimulatedStore


@pytest.fixture
def store() -> StoreUnderTest:
    simulated = SimulatedStore(lambda: 4 * time.monotonic(), limits=Limits(), is_shared=True)
    return StoreUnderTest(
        broker=lambda: simulated.broker(0), presence=simulated.presence, shared=True, lasting=False, departs_within=15.0
    )


class TestBroker(BrokerContract):
    """The broker."""


class TestPresence(PresenceContract):
    """The presence, whose time runs four times as fast here."""
