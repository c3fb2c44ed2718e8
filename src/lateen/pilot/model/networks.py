"""Networks that cannot reach each other but by gateways: who is in which, and how an endpoint of another is reached.

In:  `MeshNetworks`, Services that call themselves a network's gateway, and the endpoints of one cluster.
Out: the endpoints as one client reaches them: directly, or in their place the gateways of their network.
Rules: Istio's multi-network endpoints, docs/api/MeshNetworks.md. Pure.

A gateway passes mutual TLS on by the server name that mesh clients send, so only endpoints that speak it are behind
one.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lateen.api.names import is_ip
from lateen.pilot.model.values import EndpointInput
from lateen.pilot.registry.entries import NETWORK_LABEL

__all__ = [
    "GATEWAY_PORT_LABEL",
    "Gateway",
    "GatewayService",
    "Networks",
    "Reached",
    "build_networks",
    "through_gateways",
]

GATEWAY_PORT = 15443  # Istio's, where a gateway's Service says no other
GATEWAY_PORT_LABEL = "networking.istio.io/gatewayPort"


@dataclass(frozen=True, slots=True, order=True)
class Gateway:
    """One entry point of a network."""

    address: str  # IP
    port: int
    locality: str = ""  # "": that of the endpoints behind it


@dataclass(frozen=True, slots=True)
class GatewayService:
    """A Service that calls itself a gateway of a network, by its label."""

    network: str
    hostname: str
    port: str  # as its label says it, "" where it says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What is known of networks. Without any gateway, all is one network."""

    gateways: Mapping[str, tuple[Gateway, ...]] = field(default_factory=dict)  # network -> sorted
    ranges: tuple[tuple[str, str], ...] = ()  # subnet, network; in the order in which they count
    registries: Mapping[str, str] = field(default_factory=dict)  # registry -> network

    def network_of(self, own: str, registry: str, address: str) -> str:
        """Return the network of an endpoint or a proxy: what it says itself, its registry's, that of its address."""
        if own or not (self.registries or self.ranges):
            return own
        if registry in self.registries:
            return self.registries[registry]
        return next((network for subnet, network in self.ranges if _within(address, subnet)), "")


def build_networks(
    written: Mapping[str, Any], services: Iterable[GatewayService], addresses_of: Callable[[str], Iterable[str]]
) -> Networks:
    """Return what `written` (MeshNetworks' `networks`) and labelled Services say together.

    `addresses_of` gives the addresses of the workloads behind a Service's hostname. A gateway whose address is a name
    is left out: its user is told (`support`).
    """
    gateways: dict[str, set[Gateway]] = {}
    ranges: list[tuple[str, str]] = []
    registries: dict[str, str] = {}
    for network, entry in sorted(written.items()):
        for part in entry.endpoints:
            if part.from_registry:
                registries.setdefault(part.from_registry, network)
            elif part.from_cidr:
                ranges.append((part.from_cidr, network))
        for gateway in entry.gateways:
            name = (gateway.registry_service_name or "").rstrip(".").lower()
            places = addresses_of(name) if name else [gateway.address] if is_ip(gateway.address or "") else []
            gateways.setdefault(network, set()).update(
                Gateway(address, gateway.port, gateway.locality or "") for address in places
            )
    for service in services:
        port = int(service.port) if service.port.isdecimal() else GATEWAY_PORT
        gateways.setdefault(service.network, set()).update(
            Gateway(address, port) for address in addresses_of(service.hostname)
        )
    return Networks(
        gateways={network: tuple(sorted(known)) for network, known in sorted(gateways.items()) if known},
        ranges=tuple(ranges),
        registries=registries,
    )


@dataclass(frozen=True, slots=True)
class Reached:
    """One endpoint with what decides how it is reached. Its address may be "": then only by a gateway."""

    labels: Mapping[str, str]
    network: str
    endpoint: EndpointInput


def through_gateways(
    found: Iterable[Reached], networks: Networks, client: str
) -> list[tuple[Mapping[str, str], EndpointInput]]:
    """Return (labels, endpoint) for a client in network `client`.

    Endpoints of a network with gateways that is not the client's are replaced by these, which share their weight;
    those that do not speak mutual TLS, and those that have no address and no gateway, are left out.
    """
    direct: list[Reached] = []
    behind: list[tuple[Reached, tuple[Gateway, ...]]] = []
    for one in found:
        gateways = networks.gateways.get(one.network, ()) if one.network != client else ()
        if gateways:
            if one.endpoint.mtls:
                behind.append((one, gateways))
        elif one.endpoint.address:
            direct.append(one)
    if not behind:
        return [(one.labels, one.endpoint) for one in direct]
    # Weights are whole numbers; in this scale each can be divided by the number of its gateways.
    scale = math.lcm(*(len(gateways) for _, gateways in behind))
    shares: dict[tuple[str, Gateway, str], int] = {}
    for one, gateways in behind:
        for gateway in gateways:
            key = (one.network, gateway, gateway.locality or one.endpoint.locality)
            shares[key] = shares.get(key, 0) + one.endpoint.weight * scale // len(gateways)
    scaled = [(one.labels, replace(one.endpoint, weight=one.endpoint.weight * scale)) for one in direct]
    return scaled + [
        (
            {NETWORK_LABEL: network},
            EndpointInput(address=gateway.address, port=gateway.port, weight=weight, mtls=True, locality=locality),
        )
        for (network, gateway, locality), weight in sorted(shares.items())
    ]


def _within(address: str, subnet: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(subnet, strict=False)
    except ValueError:  # a name, a Unix socket, or none at all
        return False
