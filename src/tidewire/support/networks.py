"""The network that an address counts for, and whether it is this machine."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

__all__ = ("is_loopback", "network_of")

#: The prefix that a provider gives to one customer (RFC 6177); each holds more addresses than can be counted.
_PREFIX = 64


def network_of(address: str) -> str:
    """Return what limits by address count by: an IPv4 address, the /64 of an IPv6 address, or the text as it is."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return address
    return str(IPv6Network((int(parsed), _PREFIX), strict=False))


def is_loopback(address: str) -> bool:
    """Return whether an address is of this machine; no address at all (a unix socket) is."""
    return address in ("", "::1") or address.removeprefix("::ffff:").startswith("127.")
