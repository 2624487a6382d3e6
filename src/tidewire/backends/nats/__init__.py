"""The store on NATS JetStream, for all processes of many machines."""

from tidewire.backends.base import Broker, Presence
from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.broker import NatsBroker
from tidewire.backends.nats.presence import NatsPresence
from tidewire.backends.shared.outage import Outage
from tidewire.limits import Limits

__all__ = ("NatsAddress", "NatsBroker", "NatsPresence", "open_nats")


def open_nats(url: str, limits: Limits) -> tuple[Broker, Presence]:
    """Make the broker and the presence of a nats:// URL; raises ConfigurationError for one that cannot be read."""
    address = NatsAddress.from_url(url)
    outage = Outage(f"NATS at {address.shown}")
    return NatsBroker(address, limits, outage), NatsPresence(address, limits, outage=outage)
