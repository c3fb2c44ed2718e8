"""Who may read a workload's metrics over the network: they tell who calls whom, and are nobody else's business.

By default the workload itself: its loopback and its own address. In a network of its own that is its own processes; in
explicit mode, where loopback is the machine's, it is whoever runs there. More by `--metrics-from`, for a Prometheus.
The command line reads a Unix socket instead, which is the user's alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from lateen.errors import BadInput

__all__ = ["Networks", "check_networks", "endpoint_readers", "may_read", "metrics_readers"]

Networks = tuple[IPv4Network | IPv6Network, ...]

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")


def check_networks(texts: Iterable[str]) -> Networks:
    """Return address ranges. Raises `BadInput`."""
    found: list[IPv4Network | IPv6Network] = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError as error:
            raise BadInput(f"metrics-from: must be an address or a range such as 10.0.0.0/8, got {text!r}") from error
    return tuple(found)


def metrics_readers(own: str, more: Iterable[str] = ()) -> Networks:
    """Return from where the metrics of a workload with the address `own` are read. Raises `BadInput` for `more`."""
    return (*(ip_network(text) for text in LOOPBACK), ip_network(own), *check_networks(more))


def endpoint_readers(more: Iterable[str] = ()) -> Networks:
    """Return from where the metrics of the whole mesh are read at one address. Raises `BadInput` for `more`."""
    return (*(ip_network(text) for text in LOOPBACK), *check_networks(more))


def may_read(readers: Networks, client: str) -> bool:
    """Tell whether a client at this address may; "" is one of a Unix socket."""
    if not client:
        return True
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in network for network in readers)
