"""What one run of an agent is asked to do: the workload, checked, and the node that its proxies say they are.

Rules: Istio's node identity and metadata, docs/design/0005-agent.md. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal

from lateen import __version__
from lateen.agent.eviction import eviction_seconds
from lateen.agent.scraping import RESERVED_PORTS, application_metrics
from lateen.errors import BadInput
from lateen.wire.local import Probe, Registered, WorkloadPort
from lateen.wire.local_cluster import SELF_DISCOVERY
from lateen.wire.locality import check_locality
from lateen.wire.readers import check_networks
from lateen.wire.spiffe import check_namespace, check_service_account

__all__ = ["HostListener", "Mode", "Node", "Place", "WorkloadSpec", "build_node", "check_spec", "effective_labels"]

Mode = Literal["capture", "explicit"]

MAX_NAME = 40  # the paths of a workload's sockets hold its name: settings.SUN_PATH_BYTES
CANONICAL_NAME = "service.istio.io/canonical-name"
CANONICAL_REVISION = "service.istio.io/canonical-revision"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostListener:
    """Where a gateway is reached from the host: `address:port` there is the gateway's `gateway_port`."""

    address: str = "127.0.0.1"
    port: int
    gateway_port: int
    datagrams: bool = False  # UDP as well: HTTP/3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """One workload: an application with its proxy, or a gateway (a proxy without an application)."""

    name: str  # unique in the mesh, "reviews-v3"
    kind: Literal["sidecar", "gateway"] = "sidecar"
    namespace: str = "default"
    service_account: str = "default"
    service: str = ""  # short name of the service it serves; "" for pure clients and gateways
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ports: tuple[WorkloadPort, ...] = ()
    locality: str = ""  # region/zone/subzone
    network: str = ""
    weight: int = 1
    group: str = ""  # a WorkloadGroup of the namespace; what it says is filled in once the control plane is reached
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    probe: Probe | None = None

    argv: tuple[str, ...] = ()  # of the application; () for a gateway
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)  # whole; may hold secrets
    cwd: str | None = None
    core_limit: int | None = None  # of the application's core dumps, in bytes, -1 for any; None: as the agent's

    mode: Literal["auto", "capture", "explicit"] = "auto"
    address: str = ""  # explicit mode: its own IP address on this machine; "": one of the loopback's
    listeners: tuple[HostListener, ...] = ()  # gateways only
    metrics_from: tuple[str, ...] = ()  # address ranges that may read its metrics over the network, beside itself
    resolvers: tuple[tuple[str, int], ...] = ()  # asked for names outside of the mesh; (): the host's
    certificate_lifetime: timedelta | None = None  # None: Citadel's default
    concurrency: int | None = None  # worker threads of Envoy; None: what the mesh says, or one
    envoy_log_level: str = "warning"
    drain: timedelta | None = None  # longest wait for requests in flight when leaving; None: what the mesh says, or 5 s
    app_grace: timedelta = timedelta(seconds=10)  # longest wait for the application after SIGTERM
    join_timeout: timedelta = timedelta(seconds=10)  # longest wait for a control plane at the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a workload was put: decided once, when it starts."""

    mode: Mode
    ip: str
    http_proxy_port: int = 0  # explicit mode: the outbound HTTP proxy on loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Who a proxy says it is: Envoy's `core.v3.Node`, as plain values."""

    id: str
    cluster: str
    metadata: Mapping[str, Any]
    locality: Mapping[str, str]


def check_spec(spec: WorkloadSpec) -> None:
    """Raise `BadInput` for a workload that cannot be: it names the field, the value seen and the value wanted."""
    if len(spec.name) > MAX_NAME or not _LABEL.fullmatch(spec.name):
        raise BadInput(f"name: must be a DNS label of at most {MAX_NAME} characters, got {spec.name!r}")
    check_namespace(spec.namespace)
    check_service_account(spec.service_account)
    check_locality(spec.locality)
    if spec.service and not _LABEL.fullmatch(spec.service):
        raise BadInput(f"service: must be a DNS label, got {spec.service!r}")
    if spec.concurrency is not None and spec.concurrency < 1:
        raise BadInput(f"concurrency: must be at least 1, got {spec.concurrency}")
    if spec.kind == "sidecar" and not spec.argv:
        raise BadInput("command: must not be empty for a sidecar")
    if spec.kind == "gateway" and spec.argv:
        raise BadInput(f"command: a gateway runs none, got {spec.argv[0]!r}")
    if spec.address:
        _check_address(spec.address)
    if spec.kind == "sidecar" and spec.listeners:
        raise BadInput("listeners: only a gateway is reached from the host")
    for name in ("drain", "app_grace", "join_timeout"):
        if (getattr(spec, name) or timedelta(0)) < timedelta(0):
            raise BadInput(f"{name}: must not be negative, got {getattr(spec, name)}")
    check_networks(spec.metrics_from)
    application_metrics(spec.annotations)
    eviction_seconds(spec.annotations)
    _check_ports(spec.ports)


def _check_address(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise BadInput(f"address: an IP address wanted, got {text!r}") from error
    if address.is_unspecified or address.is_multicast:
        raise BadInput(f"address: must be one at which others reach the workload, got {text!r}")


def _check_ports(ports: tuple[WorkloadPort, ...]) -> None:
    for port in ports:
        for number in (port.number, port.target):
            if not 1 <= number <= 65535:
                raise BadInput(f"port {port.name!r}: must be between 1 and 65535, got {number}")
        if port.target in RESERVED_PORTS:
            raise BadInput(f"port {port.name!r}: {port.target} is taken by the proxy or its agent")
    for what in ("name", "number"):
        seen = [getattr(port, what) for port in ports]
        if len(set(seen)) != len(seen):
            raise BadInput(f"ports: each {what} must be unique, got {seen}")


def effective_labels(spec: WorkloadSpec) -> dict[str, str]:
    """Return the workload's labels, with those that Istio derives: app, version, canonical name and revision."""
    labels = dict(spec.labels)
    if spec.service:
        labels.setdefault("app", spec.service)
    if spec.version:
        labels.setdefault("version", spec.version)
    app = labels.get("app.kubernetes.io/name") or labels.get("app") or spec.name
    labels.setdefault(CANONICAL_NAME, app)
    labels.setdefault(CANONICAL_REVISION, labels.get("app.kubernetes.io/version") or labels.get("version") or "latest")
    return labels


def discovers_itself(spec: WorkloadSpec) -> bool:
    """Tell whether the workload's proxy shall know its own service's endpoints, and with them share between zones."""
    return bool(spec.service) and spec.env.get(SELF_DISCOVERY, "") == "true"


def build_node(spec: WorkloadSpec, place: Place, mesh: Registered) -> Node:
    """Return the node of both streams of a workload, Envoy's and the agent's."""
    labels = effective_labels(spec)
    app = labels.get("app") or spec.name
    metadata: dict[str, Any] = {
        "NAME": spec.name,
        "WORKLOAD_NAME": spec.name,
        "NAMESPACE": spec.namespace,
        "SERVICE_ACCOUNT": spec.service_account,
        "CLUSTER_ID": mesh.cluster_id,
        "MESH_ID": mesh.mesh_id,
        "LABELS": dict(sorted(labels.items())),
        "INSTANCE_IPS": place.ip,
        "INTERCEPTION_MODE": "REDIRECT" if place.mode == "capture" else "NONE",
        "ISTIO_VERSION": __version__,
        "ENVOY_STATUS_PORT": "15021",
        "ENVOY_PROMETHEUS_PORT": "15090",
    }
    if place.mode == "capture":
        metadata["DNS_CAPTURE"] = metadata["DNS_AUTO_ALLOCATE"] = "true"
    if spec.annotations:
        metadata["ANNOTATIONS"] = dict(sorted(spec.annotations.items()))
    if discovers_itself(spec):
        metadata["ENABLE_SELF_DISCOVERY"] = "true"
    if spec.network:
        metadata["NETWORK"] = spec.network
    if place.http_proxy_port:
        metadata["HTTP_PROXY_PORT"] = str(place.http_proxy_port)
    region, _, rest = spec.locality.partition("/")
    zone, _, sub_zone = rest.partition("/")
    kind = "router" if spec.kind == "gateway" else "sidecar"
    domain = f"{spec.namespace}.svc.{mesh.cluster_domain}"
    return Node(
        id=f"{kind}~{place.ip}~{spec.name}.{spec.namespace}~{domain}",
        cluster=f"{app}.{spec.namespace}",
        metadata=metadata,
        locality={k: v for k, v in (("region", region), ("zone", zone), ("sub_zone", sub_zone)) if v},
    )
