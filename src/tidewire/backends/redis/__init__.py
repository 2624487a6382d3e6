"""The store on Redis or Valkey, for many machines."""

from __future__ import annotations

from tidewire.backends.redis.address import parse_address
from tidewire.backends.redis.broker import RedisBroker
from tidewire.backends.redis.presence import RedisPresence
from tidewire.backends.shared.outage import Outage
from tidewire.limits import Limits

__all__ = ("RedisBroker", "RedisPresence", "open_redis")


def open_redis(url: str, limits: Limits) -> tuple[RedisBroker, RedisPresence]:
    """Make the broker and the presence of a URL; raises ConfigurationError for one that cannot work."""
    address = parse_address(url)
    outage = Outage(address.shown)
    return RedisBroker(address, limits, outage), RedisPresence(address, limits.publish_seconds, outage=outage)
