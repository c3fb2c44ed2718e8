"""Which packets are redirected: a `Capture` in, nftables chains as values out. `lateen.net.nft` encodes them.

Meaning and order: Istio's `ISTIO_OUTPUT` and `ISTIO_INBOUND` chains, with the user id of the proxy replaced by a mark.
IPv4 only: workloads have no IPv6 address but `::1`. A rule is its matches, all of which must hold, and what then
happens; a chain without a match leaves the packet alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Literal

from lateen.net.capture import DNS_PORT, PROXY_DNS_ADDRESS, PROXY_DNS_PORT, Capture

__all__ = [
    "Chain",
    "DestinationIn",
    "DestinationPort",
    "Mark",
    "Masquerade",
    "Match",
    "OutBy",
    "Protocol",
    "Redirect",
    "Return",
    "Rule",
    "SourceIn",
    "capture_chains",
    "gateway_chains",
    "outside_chains",
]


@dataclass(frozen=True, slots=True)
class Mark:
    """The socket's mark is this."""

    value: int


@dataclass(frozen=True, slots=True)
class OutBy:
    """The packet leaves by this link."""

    name: str


@dataclass(frozen=True, slots=True)
class Protocol:
    name: Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class DestinationPort:
    """Wants a `Protocol` before it in the rule."""

    number: int


@dataclass(frozen=True, slots=True)
class SourceIn:
    network: IPv4Network


@dataclass(frozen=True, slots=True)
class DestinationIn:
    network: IPv4Network
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """Leave the packet as it is."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send it to this port of the local machine instead."""

    port: int


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Give it the address of the link that it leaves by as its source."""


Match = Mark | OutBy | Protocol | DestinationPort | SourceIn | DestinationIn
Verdict = Return | Redirect | Masquerade


@dataclass(frozen=True, slots=True)
class Rule:
    matches: tuple[Match, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of type nat at one hook; the name of the hook is its name."""

    hook: Literal["prerouting", "output", "postrouting"]
    rules: tuple[Rule, ...]


LOOPBACK = IPv4Network("127.0.0.0/8")
INBOUND_SOURCE = IPv4Network("127.0.0.6/32")  # Istio's: the proxy binds to it when it calls its own application

_LO = OutBy("lo")
_TCP = Protocol("tcp")
_UDP = Protocol("udp")
_RETURN = Return()

# Sockets that Envoy looks names up with carry no mark, so their lookups are told by where they go.
_PROXY_LOOKUPS = tuple(
    Rule((protocol, DestinationIn(IPv4Network(PROXY_DNS_ADDRESS)), DestinationPort(53)), Redirect(PROXY_DNS_PORT))
    for protocol in (_UDP, _TCP)
)


def capture_chains(capture: Capture) -> tuple[Chain, ...]:
    """Return the chains of a workload with a sidecar. `capture` has been checked."""
    return (Chain("prerouting", _inbound(capture)), Chain("output", _outbound(capture)))


def gateway_chains() -> tuple[Chain, ...]:
    """Return the chains of a gateway: only its lookups go to the agent."""
    return (Chain("output", (*_PROXY_LOOKUPS, *_lookups(DNS_PORT))),)


def outside_chains(link: str) -> tuple[Chain, ...]:
    """Return the chains of the mesh's own namespace, when `link` leads out of it."""
    return (Chain("postrouting", (Rule((OutBy(link),), Masquerade()),)),)


def _inbound(capture: Capture) -> tuple[Rule, ...]:
    to_proxy = Redirect(capture.inbound_port)
    if capture.include_inbound_ports is not None:
        return tuple(Rule((_TCP, DestinationPort(port)), to_proxy) for port in capture.include_inbound_ports)
    excluded = (Rule((_TCP, DestinationPort(port)), _RETURN) for port in capture.exclude_inbound_ports)
    return (*excluded, Rule((_TCP,), to_proxy))


def _outbound(capture: Capture) -> tuple[Rule, ...]:
    to_proxy = Redirect(capture.outbound_port)
    proxy = Mark(capture.mark)
    included = capture.include_outbound_cidrs
    return (
        *_PROXY_LOOKUPS,
        *(
            Rule((protocol, DestinationPort(port)), _RETURN)
            for port in capture.exclude_outbound_ports
            for protocol in (_TCP, _UDP)
        ),
        # The proxy to its own application, on the workload's address: done with policy, let it through.
        Rule((_LO, SourceIn(INBOUND_SOURCE)), _RETURN),
        # The proxy to the workload's address otherwise: a service called itself, and inbound policy applies.
        Rule((proxy, _LO, _TCP, DestinationIn(LOOPBACK, negated=True)), Redirect(capture.inbound_port)),
        Rule((proxy,), _RETURN),
        *_lookups(capture.dns_port),
        # The application to itself, on whatever address.
        Rule((_LO,), _RETURN),
        Rule((DestinationIn(LOOPBACK),), _RETURN),
        *(Rule((DestinationIn(_network(cidr)),), _RETURN) for cidr in capture.exclude_outbound_cidrs),
        *(Rule((_TCP, DestinationPort(port)), to_proxy) for port in capture.include_outbound_ports),
        *(
            (Rule((_TCP,), to_proxy),)
            if included is None
            else (Rule((_TCP, DestinationIn(_network(cidr))), to_proxy) for cidr in included)
        ),
    )


def _lookups(port: int) -> tuple[Rule, ...]:
    return tuple(Rule((protocol, DestinationPort(53)), Redirect(port)) for protocol in (_UDP, _TCP))


def _network(cidr: str) -> IPv4Network:
    return IPv4Network(cidr, strict=False)
