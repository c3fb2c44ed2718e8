"""The ingress listeners of a Sidecar: what arrives at a workload, where its owner says so port by port.

In:  the Sidecar in force for a workload. Out: for each of its ports what is spoken, where it binds, where it leads.
Rules: docs/api/Sidecar.md (Istio's ingress listeners, which replace what services say). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lateen.api.protocol import Protocol, parse_protocol
from lateen.pilot.registry.values import Workload

__all__ = ["IngressPort", "ingress_ports", "pool_of"]

_LOOPBACK = "127.0.0.1"
_INSTANCE = frozenset({"0.0.0.0", "::", "[::]"})  # noqa: S104  # compared, not bound: they mean the workload's own IP


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPort:
    """One ingress listener as it stands for one workload."""

    number: int
    protocol: Protocol
    bind: str  # where it opens a socket of its own; "": it takes what is captured
    forward: str  # "127.0.0.1:8080", "/path"; "": where the client dialled
    tls: Any = None  # api ServerTLSSettings | None
    connection_pool: Any = None  # api ConnectionPoolSettings | None


def ingress_ports(sidecar: Any, workload: Workload) -> tuple[IngressPort, ...]:
    """Return the ingress listeners of a Sidecar's spec for `workload`, by port; () when it says nothing of them."""
    return tuple(sorted((_ingress_port(entry, workload) for entry in sidecar.ingress), key=lambda port: port.number))


def pool_of(sidecar: Any) -> Any:
    """Return the connection pool of ports whose ingress listener has none, None when the Sidecar says nothing."""
    return sidecar.inbound_connection_pool if sidecar is not None else None


def _ingress_port(entry: Any, workload: Workload) -> IngressPort:
    number = entry.port.number
    own = not workload.capture or entry.capture_mode == "NONE"
    forward = _forward(entry.default_endpoint, workload)
    if own and not forward:
        # A socket that was not captured was dialled for itself: behind it, the application is on loopback.
        listens = next((target for _, port, target in workload.ports if port == number), number)
        forward = f"{_LOOPBACK}:{listens}"
    return IngressPort(
        number=number,
        protocol=parse_protocol(entry.port.protocol, "", number, "TCP"),
        bind=(entry.bind or workload.ip) if own else "",
        forward=forward,
        tls=entry.tls,
        connection_pool=entry.connection_pool,
    )


def _forward(endpoint: str, workload: Workload) -> str:
    """Return where `defaultEndpoint` leads, "" when it says nothing."""
    if not endpoint:
        return ""
    if endpoint.startswith("unix://"):
        return endpoint.removeprefix("unix://")
    host, _, port = endpoint.rpartition(":")
    if host in _INSTANCE:
        return f"{workload.ip}:{port}"
    return f"[::1]:{port}" if host in ("[::1]", "::1") else f"{_LOOPBACK}:{port}"
