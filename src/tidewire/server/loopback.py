"""Connections from this machine, which a server on a loopback address trusts."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from tidewire.observe.guards import comes_from_this_machine
from tidewire.server.settings import Settings

__all__ = ("is_local",)


def is_local(settings: Settings, connection: HTTPConnection) -> bool:
    """Return whether a connection comes from this machine, by a loopback name and not through a proxy."""
    return settings.is_loopback and comes_from_this_machine(connection)
