"""The store on NATS JetStream, for all processes of many machines."""

from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.broker import NatsBroker
from tidewire.backends.nats.presence import NatsPresence

__all__ = ("NatsAddress", "NatsBroker", "NatsPresence")
