"""The figures of a node, as one value."""

from __future__ import annotations

import msgspec

__all__ = ("Statistics",)


class Statistics(msgspec.Struct, frozen=True):
    """A node's figures since its start, and its sizes now; the limits that links meet are those of the process."""

    connections: int
    users: int
    channels: int
    published: int
    deliveries: int
    duplicates: int
    gaps: int
    slow_disconnects: int
    dropped: int
    superseded: int
    worst_turn_cpu: float
    worst_turn_wall: float
    limits_reached: dict[str, int]
    degraded: bool
