"""The store on one SQLite file, for all processes of one machine."""

from tidewire.backends.sqlite.broker import SqliteBroker
from tidewire.backends.sqlite.presence import SqlitePresence

__all__ = ("SqliteBroker", "SqlitePresence")
