"""What of a workload's traffic goes through its proxy, as values; `lateen.net.rules` turns them into kernel rules.

Meaning and defaults: Istio's traffic redirection. The proxy is told from the application by a socket mark instead of
its user id, because a user namespace without root knows one user id only.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from lateen.errors import BadInput

__all__ = [
    "DNS_PORT",
    "HEALTH_PORT",
    "MARK",
    "METRICS_PORT",
    "PROXY_DNS_ADDRESS",
    "PROXY_DNS_PORT",
    "Capture",
    "check_capture",
]

DNS_PORT = 15053  # where the agent answers the workload's lookups, on 127.0.0.1
PROXY_DNS_PORT = 15054  # where it answers those of the workload's proxy, on 127.0.0.1
PROXY_DNS_ADDRESS = (
    "127.0.0.2"  # the proxy's name server: lookups sent there are the proxy's, all others the application's
)
METRICS_PORT = 15020  # the agent's merged metrics, on every address
HEALTH_PORT = 15021  # readiness, on every address
MARK = 1337  # SO_MARK of every socket that the proxy opens towards an upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is captured. `None` for an include means everything, `()` nothing."""

    outbound_port: int = 15001
    inbound_port: int = 15006
    dns_port: int = DNS_PORT
    mark: int = MARK
    include_inbound_ports: tuple[int, ...] | None = None
    exclude_inbound_ports: tuple[int, ...] = (15020, 15021, 15090)  # used only while every inbound port is included
    include_outbound_cidrs: tuple[str, ...] | None = None
    exclude_outbound_cidrs: tuple[str, ...] = ()
    include_outbound_ports: tuple[int, ...] = ()  # captured even where the address is not included
    exclude_outbound_ports: tuple[int, ...] = ()


def check_capture(capture: Capture) -> None:
    """Raise `BadInput` for a port or an address range that cannot be."""
    for name in ("outbound_port", "inbound_port", "dns_port"):
        _check_port(name, getattr(capture, name))
    if not 1 <= capture.mark < 2**32:
        raise BadInput(f"capture mark: must be between 1 and 4294967295, got {capture.mark}")
    for name in ("include_inbound_ports", "exclude_inbound_ports", "include_outbound_ports", "exclude_outbound_ports"):
        for port in getattr(capture, name) or ():
            _check_port(name, port)
    for name in ("include_outbound_cidrs", "exclude_outbound_cidrs"):
        for cidr in getattr(capture, name) or ():
            try:
                IPv4Network(cidr, strict=False)
            except (AddressValueError, NetmaskValueError, ValueError) as error:
                raise BadInput(f"capture {name}: must be an IPv4 range such as 10.0.0.0/8, got {cidr!r}") from error


def _check_port(name: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise BadInput(f"capture {name}: must be between 1 and 65535, got {port}")
