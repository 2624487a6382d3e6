"""The network that an address counts for."""

from __future__ import annotations

import pytest

from tidewire.support.networks import is_loopback, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("", ""),
        ("a:name", "a:name"),
    ],
)
def test_an_ipv6_network_is_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
    assert network_of(network_of(address)) == network


def test_this_machine_is_told_from_others() -> None:
    assert all(is_loopback(address) for address in ("", "::1", "127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1"))
    assert not any(is_loopback(address) for address in ("192.0.2.7", "2001:db8::1", "::2", "::ffff:10.0.0.1"))
