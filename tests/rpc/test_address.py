"""Whose x-forwarded-for is believed, and how far."""

from ipaddress import ip_network

import pytest

from penstock.rpc.address import client_address

TRUSTED = (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("ipv4:127.0.0.1:5000", "203.0.113.9", "203.0.113.9"),
        ("ipv6:%5B::1%5D:5000", "203.0.113.9", "203.0.113.9"),
        ("ipv6:%5B::ffff:127.0.0.1%5D:5000", "203.0.113.9", "203.0.113.9"),
        ("ipv4:127.0.0.1:5000", "2001:db8::7", "2001:db8::7"),
        # What the client itself claims stands left of what the proxies saw.
        ("ipv4:127.0.0.1:5000", "1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("ipv4:127.0.0.1:5000", "1.2.3.4, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        # Nobody but trusted proxies on the way: the farthest of them.
        ("ipv4:127.0.0.1:5000", "10.9.9.9, 10.1.1.1", "10.9.9.9"),
        ("ipv4:127.0.0.1:5000", "", "127.0.0.1"),
        # A peer that is no proxy of ours is the client, whatever it claims.
        ("ipv4:198.51.100.4:5000", "1.2.3.4", "198.51.100.4"),
        ("ipv6:%5B2001:db8::1%5D:5000", "1.2.3.4", "2001:db8::1"),
        # What is no address stops the search where it stands.
        ("ipv4:127.0.0.1:5000", "203.0.113.9, unknown, 10.1.1.1", "10.1.1.1"),
        ("unix:/run/penstock.sock", "203.0.113.9", "unix:/run/penstock.sock"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded_for: str, expected: str) -> None:
    assert client_address(peer, forwarded_for, TRUSTED) == expected


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert client_address("ipv4:127.0.0.1:5000", "203.0.113.9", ()) == "127.0.0.1"
