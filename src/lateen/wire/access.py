"""What `lateen authz` asks of the control plane: who may reach one workload, by what is in force there.

Part of the control service (`lateen.wire.local`): method `Access`, `Query -> AccessReport`.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["AccessReport", "PolicyInfo", "PortInfo"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the messages: strict, because the other side may be another version."""


class PortInfo(_Message, frozen=True, kw_only=True):
    """One port where traffic is decided on."""

    port: int  # the workload's own; 0: every port that is not named
    protocol: str = ""  # "HTTP", "TCP", "GRPC"...; "" is detected
    mtls: str = ""  # "STRICT" | "PERMISSIVE" | "DISABLE"; "" at gateways, whose servers say what they take
    service: str = ""  # hostname of the service that it is of


class PolicyInfo(_Message, frozen=True, kw_only=True):
    """One policy that is in force for the workload, whole, and where it was written."""

    kind: str  # "AuthorizationPolicy" | "RequestAuthentication"
    namespace: str
    name: str
    file: str
    line: int
    rules: tuple[int, ...] = ()  # the line of each rule
    document: dict[str, Any]  # as `lateen.api.encode` spells it


class AccessReport(_Message, frozen=True, kw_only=True):
    """All that decides who may reach one workload."""

    workload: str
    kind: str  # "sidecar" | "gateway"
    namespace: str
    identity: str  # spiffe://...
    ip: str
    trust_domains: tuple[str, ...]  # the mesh's own, then its aliases
    normalisation: str  # of paths: MeshConfig's word
    ports: tuple[PortInfo, ...]
    policies: tuple[PolicyInfo, ...] = ()  # in the order in which they are looked at
    providers: dict[str, str] = {}  # authorizers that are defined: name -> "grpc" | "http"
