"""The network that an address counts for, and whether it is this machine."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

__all__ = ("is_loopback", "network_of", "problem_of_proxy", "with_mapped")

#: The prefix that a provider gives to one customer (RFC 6177); each holds more addresses than can be counted.
_PREFIX = 64


def network_of(address: str) -> str:
    """Return the network by which limits count an address: itself for IPv4, the /64 for IPv6, or the text as it is."""
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
    return address.startswith(("127.", "::ffff:127.")) or address in ("", "::1")


def problem_of_proxy(text: str) -> str:
    """Return why no address is ever that of such a proxy, "" where it is an address, a network or "*"."""
    if text == "*":
        return ""
    for is_strict in (True, False):
        try:
            found = ip_network(text.partition("%")[0], strict=is_strict)
        except ValueError:
            continue
        return "" if is_strict else f"{text!r} is an address within a network; write {found}, or the address alone"
    return f"{text!r} is no address; write one as 10.0.0.1, or a network as 10.0.0.0/8"


def with_mapped(networks: Iterable[str]) -> list[str]:
    """Return addresses and networks, those of IPv4 also as a socket for IPv6 sees them (`::ffff:10.0.0.2`)."""
    found = list(networks)
    if "*" in found:
        return ["*"]  # uvicorn reads nothing else as everybody
    for network in tuple(found):
        try:
            parsed = IPv4Network(network)
        except ValueError:
            continue
        found.append(f"::ffff:{parsed.network_address}/{96 + parsed.prefixlen}")
    return found
