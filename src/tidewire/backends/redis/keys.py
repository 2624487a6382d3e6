"""The names of keys: all keys of one channel share a hash tag, so that Redis Cluster keeps them on one server."""

from __future__ import annotations

import binascii
import re
from functools import cache

from tidewire.backends.redis.address import Address, Kind

__all__ = ("SLOTS", "Keys", "slot_of")

#: The slots of every cluster.
SLOTS = 16_384


def slot_of(tag: str) -> int:
    """Return the slot of a hash tag (Redis Cluster specification: CRC16 modulo 16384)."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


@cache
def _tags() -> tuple[str, ...]:
    """Return a short tag for each slot."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SLOTS:
        found.setdefault(slot_of(str(number)), str(number))
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))


class Keys:
    """Makes the keys of a store."""

    def __init__(self, address: Address) -> None:
        self._prefix = address.prefix
        self._is_cluster = address.kind is Kind.CLUSTER
        # pub/sub knows no databases, and stores in two of them are two
        self._pubsub = f"{address.prefix}:{address.db}:"
        self.presence = f"{address.prefix}:{{presence}}:"

    @staticmethod
    def tag(channel: str) -> str:
        """Return a channel's hash tag, which is never cut short by a brace in the name."""
        return channel.replace("%", "%25").replace("}", "%7D") if "}" in channel or "%" in channel else channel

    def slot(self, channel: str) -> int:
        """Return the slot of a channel's keys; 0 where there are no slots."""
        return slot_of(self.tag(channel)) if self._is_cluster else 0

    def generation(self, slot: int) -> str:
        """Return the key of the generation that holds for a slot."""
        return f"{self._prefix}:{{{_tags()[slot]}}}:generation" if self._is_cluster else f"{self._prefix}:generation"

    def channel(self, channel: str) -> tuple[str, str, str]:
        """Return the keys of a channel's generation, meta hash and stream."""
        base = f"{self._prefix}:{{{self.tag(channel)}}}:"
        return self.generation(self.slot(channel)), base + "meta", base + "stream"

    @property
    def stream_pattern(self) -> str:
        """The pattern of the keys of all channels' streams."""
        return re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + ":{*}:stream"

    def channel_of(self, key: bytes) -> str | None:
        """Return the channel of such a key, None when it is not ours."""
        try:
            tag = key.decode().removeprefix(f"{self._prefix}:{{").removesuffix("}:stream")
        except UnicodeDecodeError:
            return None
        channel = tag.replace("%7D", "}").replace("%25", "%")
        return channel if self.channel(channel)[2].encode() == key else None

    def once(self, channel: str, key: str) -> str:
        """Return the key that remembers an idempotency key."""
        return f"{self._prefix}:{{{self.tag(channel)}}}:key:{key}"

    def pubsub(self, channel: str) -> str:
        """Return the name of a channel in pub/sub."""
        return self._pubsub + channel
