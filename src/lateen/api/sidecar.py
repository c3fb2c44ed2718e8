"""networking.istio.io Sidecar, as written: what the sidecars of some workloads are configured for.

Rules beyond the shape: `lateen.api.check_sidecar`. Meaning and defaults: docs/api/Sidecar.md.
"""

from __future__ import annotations

from typing import Literal

from lateen.api.base import Spec
from lateen.api.destination_rule import ConnectionPoolSettings
from lateen.api.gateway import ServerTLSSettings
from lateen.api.scalars import UInt32
from lateen.api.selectors import WorkloadLabels
from lateen.api.virtual_service import Destination

__all__ = ["IstioEgressListener", "IstioIngressListener", "OutboundTrafficPolicy", "Sidecar", "SidecarPort"]

CaptureMode = Literal["DEFAULT", "IPTABLES", "NONE"]


class SidecarPort(Spec, frozen=True, kw_only=True):
    number: UInt32 = 0
    protocol: str = ""
    name: str = ""
    target_port: UInt32 = 0  # deprecated, refused


class IstioIngressListener(Spec, frozen=True, kw_only=True):
    port: SidecarPort
    bind: str = ""  # IP
    capture_mode: CaptureMode = "DEFAULT"
    default_endpoint: str = ""
    tls: ServerTLSSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None


class IstioEgressListener(Spec, frozen=True, kw_only=True):
    port: SidecarPort | None = None  # None: all ports of what is imported
    bind: str = ""  # IP or Unix
    capture_mode: CaptureMode = "DEFAULT"
    hosts: tuple[str, ...]  # `[~]namespace/name`


class OutboundTrafficPolicy(Spec, frozen=True, kw_only=True):
    """The block without a mode means REGISTRY_ONLY."""

    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS"] = "REGISTRY_ONLY"
    egress_proxy: Destination | None = None


class Sidecar(Spec, frozen=True, kw_only=True):
    workload_selector: WorkloadLabels | None = None  # None: the whole namespace
    ingress: tuple[IstioIngressListener, ...] = ()
    egress: tuple[IstioEgressListener, ...] = ()
    inbound_connection_pool: ConnectionPoolSettings | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
