"""Services and workloads in one shape, whatever they were written as.

In:  core/v1 Services, ServiceEntries, WorkloadEntries, registrations of running workloads.
Out: the values below; `lateen.pilot.model` resolves them against a viewer. No Envoy in here, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from lateen.api.base import ResourceKey
from lateen.api.check_redis import REDIS_PROXY
from lateen.api.protocol import Protocol
from lateen.pilot.model.values import Hostname, Resolution

__all__ = [
    "CLUSTER_ID",
    "EVERYWHERE",
    "ROOT_NAMESPACE",
    "Registry",
    "Service",
    "ServiceKey",
    "ServicePort",
    "StaticEndpoint",
    "Workload",
    "asks_for_redis_proxy",
    "export_scopes",
]

EVERYWHERE = "*"  # an exportTo that every namespace sees
CLUSTER_ID = "lateen"  # the one registry of a mesh on one machine
ROOT_NAMESPACE = "istio-system"  # MeshConfig.rootNamespace's default


class Registry(IntEnum):
    """Where a service is from; the lower one wins a hostname that both claim."""

    SERVICE = 0  # core/v1 Service
    SERVICE_ENTRY = 1
    IMPLIED = 2  # nothing but a running workload names it


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """One service row. Several rows may name one host; `lateen.pilot.model.visibility` picks."""

    hostname: Hostname
    registry: Registry
    namespace: str
    name: str  # of the resource, or of the workload that implies it


@dataclass(frozen=True, slots=True)
class ServicePort:
    name: str
    number: int
    protocol: Protocol
    target: int | str | None  # number or name at the workload; None: the same number


@dataclass(frozen=True, slots=True)
class StaticEndpoint:
    """One endpoint written down in a ServiceEntry or a WorkloadEntry."""

    address: str
    ports: tuple[tuple[str, int], ...] = ()  # service port's name -> number
    labels: tuple[tuple[str, str], ...] = ()
    weight: int = 1
    locality: str = ""
    network: str = ""
    service_account: str = ""
    namespace: str = ""
    name: str = ""
    serves: tuple[str, ...] | None = None  # names of the service's ports that it is for; None: all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A name with ports that traffic is sent to."""

    hostname: Hostname
    name: str  # short name; for services outside their hostname
    namespace: str
    registry: Registry
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...] = ()  # virtual IPs and subnets as written; () none was
    external_ips: tuple[str, ...] = ()  # more addresses that clients may dial; no name leads to them
    wants_vip: bool = False  # one is handed out when none was written
    resolution: Resolution = Resolution.EDS
    mesh_external: bool = False
    export_to: tuple[str, ...] = (EVERYWHERE,)
    selector: tuple[tuple[str, str], ...] = ()  # sorted; () selects nothing
    labels: tuple[tuple[str, str], ...] = ()  # of a ServiceEntry, sorted: those of one host are merged by them
    endpoints: tuple[StaticEndpoint, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    alias_of: Hostname | None = None  # ExternalName
    publish_not_ready: bool = False
    session_affinity: bool = False
    distribution: str = ""  # PreferClose, PreferSameZone, PreferSameNode
    node_local: bool = False  # endpoints of the client's own node only
    redis_proxy: bool = False  # its annotation asks for it: commands to its REDIS ports are routed one by one
    created: str = ""
    source: ResourceKey | None = None

    def port(self, number: int) -> ServicePort | None:
        return next((port for port in self.ports if port.number == number), None)

    def proxies_redis(self, port: ServicePort) -> bool:
        """True where commands to `port` are routed one by one. A client that dials workloads itself has chosen one."""
        return self.redis_proxy and port.protocol is Protocol.REDIS and self.resolution is not Resolution.ORIGINAL_DST

    @property
    def dialled(self) -> tuple[str, ...]:
        """All addresses that were written for clients to dial."""
        return (*self.addresses, *self.external_ips)

    @property
    def headless(self) -> bool:
        """No virtual IP, and clients dial the workloads themselves."""
        return self.registry is not Registry.SERVICE_ENTRY and self.resolution is Resolution.ORIGINAL_DST


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One running instance with one identity."""

    name: str
    kind: str = "sidecar"  # "sidecar" | "gateway"
    namespace: str
    service_account: str
    service: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str
    ports: tuple[tuple[str, int, int], ...] = ()  # name, number clients use, number the application listens on
    ready: bool = False
    capture: bool = True
    http_proxy_port: int = 0
    locality: str = ""
    network: str = ""
    weight: int = 1
    group: str = ""  # the WorkloadGroup that it was made from
    cluster: str = CLUSTER_ID


def asks_for_redis_proxy(annotations: Mapping[str, str]) -> bool:
    """Say whether a Service or ServiceEntry wants commands to its REDIS ports routed one by one."""
    return annotations.get(REDIS_PROXY) == "true"


def export_scopes(entries: Iterable[str], namespace: str, default: Iterable[str] = (EVERYWHERE,)) -> tuple[str, ...]:
    """Return the namespaces that an exportTo names, sorted, () for nobody; `default` stands where it says nothing."""
    written = [entry for raw in entries if (entry := raw.strip())] or default
    scopes = {namespace if entry == "." else entry for entry in written}
    return tuple(sorted(scopes - {"~"}))  # "~" is nobody, and stands alone
