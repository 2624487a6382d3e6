"""Contract suites that a store of your own can run: subclass them in a test file and give a `store` fixture.

class TestMyBroker(BrokerContract): ...

@pytest.fixture
def store() -> StoreUnderTest:
    return StoreUnderTest(broker=MyBroker, presence=MyPresence, shared=False, lasting=False)
"""

from tidewire.testing.broker import BrokerContract
from tidewire.testing.links import FakeLink, ManualClock
from tidewire.testing.presence import PresenceContract
from tidewire.testing.store_under_test import StoreUnderTest, wait_until

__all__ = (
    "BrokerContract",
    "FakeLink",
    "ManualClock",
    "PresenceContract",
    "StoreUnderTest",
    "wait_until",
)
