"""Which addresses a URL from outside may lead to. Pure: addresses in, verdicts out.

What is refused is what the IANA special-purpose registries (RFC 6890) say is not reached across the internet, and every
form in which IPv6 carries such an address. That covers, unless the operator opens them: the machine itself, its links
and metadata services, private networks with whatever lives in them, and all ranges of the mesh (workloads in
10.77.0.0/16, Services in 10.96.0.0/12, entries in 240.240.0.0/16).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lateen.errors import BadInput

__all__ = ["Guard", "Network", "parse_networks"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Narrower ones first where they overlap: the first that holds gives the reason.
_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(block), what)
    for block, what in (
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("100.64.0.0/10", "shared with a carrier (RFC 6598)"),
        ("192.0.0.0/24", "for protocols (RFC 6890)"),
        ("192.0.2.0/24", "for documentation"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("198.18.0.0/15", "for benchmarks"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "a translation of local use (RFC 8215)"),
        ("100::/64", "discarded (RFC 6666)"),
        ("100:0:0:1::/64", "a dummy prefix (RFC 9780)"),
        ("2001::/32", "a Teredo tunnel"),
        ("2001:db8::/32", "for documentation"),
        ("2001::/23", "for protocols (RFC 2928)"),
        ("3fff::/20", "for documentation"),
        ("5f00::/16", "a segment identifier (RFC 9602)"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")  # all that is assigned for use across the internet (RFC 4291)


def parse_networks(texts: Iterable[str], what: str) -> tuple[Network, ...]:
    """Return the networks of CIDRs or single addresses. Raises `BadInput`, naming `what`, for one that is none."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise BadInput(f"{what} wants a CIDR such as 10.1.0.0/16, got {text!r} ({error})") from None
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The operator's word over the rule: `refused` stands before `allowed`, which stands before the rule."""

    allowed: tuple[Network, ...] = ()
    refused: tuple[Network, ...] = ()

    def refusal(self, text: str) -> str | None:
        """Return why the address in `text` may not be reached, such as "loopback"; None: it may.

        `text` is what the resolver gave: an IP, perhaps with a zone (`fe80::1%eth0`). What is no address is refused.
        """
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return "no IP address"
        forms = _forms(address)
        if any(form in network for form in forms for network in self.refused):
            return "refused by --refuse-fetch"
        if any(form in network for form in forms for network in self.allowed):
            return None
        for form in forms:
            what = _special(form)
            if what is not None:
                return what if form == address else f"a form of {form}, which is {what}"
        return None


def _forms(address: Address) -> tuple[Address, ...]:
    """Return the address and those IPv4 addresses that it is another spelling of, or that it is carried to."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in _NAT64 or (address in _COMPATIBLE and int(address) > 1)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return (address,) if inner is None else (address, inner)


def _special(address: Address) -> str | None:
    for network, what in _SPECIAL:
        if address in network:
            return what
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL:
        carried = address.ipv4_mapped is not None or address in _NAT64
        return None if carried else "not of the internet"
    return None
