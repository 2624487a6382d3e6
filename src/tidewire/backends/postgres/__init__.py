"""The store on a PostgreSQL server, for the processes of many machines."""

from tidewire.backends.postgres.broker import PostgresBroker
from tidewire.backends.postgres.presence import PostgresPresence

__all__ = ("PostgresBroker", "PostgresPresence")
