"""The store on a PostgreSQL server, for the processes of many machines."""

from __future__ import annotations

from tidewire.backends.postgres.address import Server
from tidewire.backends.postgres.broker import PostgresBroker
from tidewire.backends.postgres.presence import PostgresPresence
from tidewire.backends.shared.outage import Outage
from tidewire.limits import Limits

__all__ = ("PostgresBroker", "PostgresPresence", "open_postgres")


def open_postgres(url: str, limits: Limits) -> tuple[PostgresBroker, PostgresPresence]:
    """Make the broker and the presence of a URL, which tell of one outage together."""
    seconds = limits.publish_seconds
    outage = Outage(Server(url, seconds).shown)
    return PostgresBroker(url, limits, outage), PostgresPresence(url, seconds, outage=outage)
