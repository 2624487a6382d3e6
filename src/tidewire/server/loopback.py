"""Connections from this machine, which a server on a loopback address trusts."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

from tidewire.server.settings import Settings

__all__ = ("is_local",)

_LOCAL_NAMES = ("localhost", "")
#: Headers that a proxy adds (RFC 7239, RFC 9110 section 7.6.3).
_PROXIED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_local(settings: Settings, connection: HTTPConnection) -> bool:
    """Return whether a connection comes from this machine, by a loopback name and not through a proxy."""
    if any(name in connection.headers for name in _PROXIED):
        return False
    client = connection.client.host if connection.client else ""
    host = connection.headers.get("host", "").lower()
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return settings.is_loopback and _is_loopback(client) and _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return name in _LOCAL_NAMES or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
