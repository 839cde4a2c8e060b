"""Whose call it is: the client's address, of which proxies on the way are believed and nobody else."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote

from penstock import limits


def client_address(peer: str, forwarded_for: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """The client's address, given gRPC's `peer` and the x-forwarded-for that came.

    x-forwarded-for is looked at only when the peer itself is in a `trusted` network, and then from the right, where
    each proxy adds what it saw: the first address that is no trusted proxy's is the client's, and whatever stands left
    of it is the client's own claim. When all of them are trusted it is the left-most.
    """
    address = _peer_address(peer)
    if address is None:  # a socket of this machine's file system: it has no address
        return peer[: limits.ID_CHARS_MAX]
    hops = forwarded_for.split(",")
    while hops and _within(address, trusted):
        hop = _address(hops.pop())
        if hop is None:
            break
        address = hop
    return str(address)


def _peer_address(peer: str) -> IPv4Address | IPv6Address | None:
    """Of `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    _, _, place = unquote(peer).partition(":")
    return _address(place.rpartition(":")[0])


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    # A socket that listens on [::] shows IPv4 clients as ::ffff:a.b.c.d.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _within(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
