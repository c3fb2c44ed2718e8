"""The kinds of Kubernetes' core group that are read: Service, Namespace, ServiceAccount, as written.

Shapes of Kubernetes 1.34; rules beyond them: `lateen.api.check_core`. What of them acts: docs/api/Service.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lateen.api.base import EMPTY, Spec
from lateen.api.scalars import Int32, IntOrString, Mapping

__all__ = [
    "ClientIPConfig",
    "LocalObjectReference",
    "NamespaceSpec",
    "ObjectReference",
    "ServiceAccountBody",
    "ServicePort",
    "ServiceSpec",
    "SessionAffinityConfig",
]


class ServicePort(Spec, frozen=True, kw_only=True):
    name: str = ""  # required when there are several ports
    port: Int32
    target_port: IntOrString | None = None  # None: the same as port; text: the name of a port of the workload
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    app_protocol: str | None = None
    node_port: Int32 = 0


class ClientIPConfig(Spec, frozen=True, kw_only=True):
    timeout_seconds: Int32 | None = None


class SessionAffinityConfig(Spec, frozen=True, kw_only=True):
    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(Spec, frozen=True, kw_only=True):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: Mapping[str, str] = EMPTY
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = msgspec.field(default="", name="clusterIP")  # "None": headless
    cluster_ips: Annotated[tuple[str, ...], Meta(max_length=2)] = msgspec.field(default=(), name="clusterIPs")
    external_name: str = ""
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    publish_not_ready_addresses: bool = False
    ip_families: tuple[Literal["IPv4", "IPv6"], ...] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    session_affinity: Literal["None", "ClientIP"] = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: Literal["Cluster", "Local"] | None = None
    external_traffic_policy: Literal["Cluster", "Local"] | None = None
    traffic_distribution: str | None = None  # PreferClose, PreferSameZone, PreferSameNode
    topology_keys: tuple[str, ...] = ()  # gone since Kubernetes 1.22, still in people's files
    load_balancer_class: str | None = None
    load_balancer_ip: str = msgspec.field(default="", name="loadBalancerIP")
    load_balancer_source_ranges: tuple[str, ...] = ()
    allocate_load_balancer_node_ports: bool | None = None
    health_check_node_port: Int32 = 0


class NamespaceSpec(Spec, frozen=True, kw_only=True):
    finalizers: tuple[str, ...] = ()


class ObjectReference(Spec, frozen=True, kw_only=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class LocalObjectReference(Spec, frozen=True, kw_only=True):
    name: str = ""


class ServiceAccountBody(Spec, frozen=True, kw_only=True):
    """What stands beside `metadata`: a ServiceAccount has no `spec`."""

    secrets: tuple[ObjectReference, ...] = ()
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    automount_service_account_token: bool | None = None
