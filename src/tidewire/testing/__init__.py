"""Tests of applications and of stores: the fixture `realtime` with its world, and contract suites to subclass.

The suites are for a store of your own; give them a `store` fixture:

class TestMyBroker(BrokerContract): ...

@pytest.fixture
def store() -> StoreUnderTest:
    return StoreUnderTest(broker=MyBroker, presence=MyPresence, shared=False, lasting=False)
"""

from typing import TYPE_CHECKING

from tidewire.support.first_use import imported_at_first_use

if TYPE_CHECKING:
    from tidewire.testing.broker import BrokerContract
    from tidewire.testing.contract_store import StoreUnderTest, wait_until
    from tidewire.testing.links import FakeLink, ManualClock
    from tidewire.testing.players import Player, Received, SocketClient
    from tidewire.testing.presence import PresenceContract
    from tidewire.testing.realtime import Realtime, Run
    from tidewire.testing.staged_worker import connected_user
    from tidewire.testing.subscriber import CommandRefused, Subscriber
    from tidewire.testing.wire_client import HandshakeRefused
    from tidewire.testing.world import World

__all__ = (
    "BrokerContract",
    "CommandRefused",
    "FakeLink",
    "HandshakeRefused",
    "ManualClock",
    "Player",
    "PresenceContract",
    "Realtime",
    "Received",
    "Run",
    "SocketClient",
    "StoreUnderTest",
    "Subscriber",
    "World",
    "connected_user",
    "wait_until",
)

#: The module of each of these names, imported at first use: pytest starts with the plugin alone.
_HOMES = {
    "tidewire.testing.broker": ("BrokerContract",),
    "tidewire.testing.links": (
        "FakeLink",
        "ManualClock",
    ),
    "tidewire.testing.players": (
        "Player",
        "Received",
        "SocketClient",
    ),
    "tidewire.testing.presence": ("PresenceContract",),
    "tidewire.testing.realtime": (
        "Realtime",
        "Run",
    ),
    "tidewire.testing.staged_worker": ("connected_user",),
    "tidewire.testing.contract_store": (
        "StoreUnderTest",
        "wait_until",
    ),
    "tidewire.testing.subscriber": (
        "CommandRefused",
        "Subscriber",
    ),
    "tidewire.testing.wire_client": ("HandshakeRefused",),
    "tidewire.testing.world": ("World",),
}
if not TYPE_CHECKING:  # a checker reads the imports above, and reports a name that is not there
    __getattr__ = imported_at_first_use(__name__, _HOMES)
