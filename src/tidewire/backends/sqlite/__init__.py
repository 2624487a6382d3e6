"""The store on one SQLite file, for all processes of one machine."""

from tidewire.backends.sqlite.broker import SqliteBroker

__all__ = ("SqliteBroker",)
