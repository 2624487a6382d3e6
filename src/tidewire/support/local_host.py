"""Names and addresses of this machine itself."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

__all__ = ("is_loopback",)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its loopback name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
