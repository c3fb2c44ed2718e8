"""networking.istio.io EnvoyFilter, as written: patches to what is generated for Envoy.

Rules beyond the shape: `lateen.api.check_envoy_filter`. Meaning and defaults: docs/api/EnvoyFilter.md.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Int32, Mapping, UInt32
from lateen.api.selectors import PolicyTargetReference, WorkloadLabels

__all__ = [
    "ClusterMatch",
    "EnvoyConfigObjectPatch",
    "EnvoyFilter",
    "FilterChainMatch",
    "FilterMatch",
    "ListenerMatch",
    "ObjectMatch",
    "Patch",
    "ProxyMatch",
    "RouteConfigurationMatch",
    "RouteMatch",
    "SubFilterMatch",
    "VirtualHostMatch",
    "WaypointFilterMatch",
    "WaypointMatch",
    "WaypointRouteMatch",
]

ApplyTo = Literal[
    "INVALID",
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
    "HTTP_FILTER",
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "EXTENSION_CONFIG",
    "BOOTSTRAP",
    "LISTENER_FILTER",
]
Operation = Literal[
    "INVALID",
    "MERGE",
    "ADD",
    "REMOVE",
    "INSERT_BEFORE",
    "INSERT_AFTER",
    "INSERT_FIRST",
    "REPLACE",
    "MERGE_AND_REPLACE_LIST",
]
PatchContext = Literal["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT"]


class ProxyMatch(Spec, frozen=True, kw_only=True):
    proxy_version: str = ""  # RE2, searched in the node's ISTIO_VERSION
    metadata: Mapping[str, str] = EMPTY


class SubFilterMatch(Spec, frozen=True, kw_only=True):
    name: str = ""


class FilterMatch(Spec, frozen=True, kw_only=True):
    name: str = ""
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Spec, frozen=True, kw_only=True):
    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: str = ""  # comma-separated
    filter: FilterMatch | None = None
    destination_port: UInt32 = 0


class ListenerMatch(Spec, frozen=True, kw_only=True):
    port_number: UInt32 = 0
    port_name: str = ""
    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""


class RouteMatch(Spec, frozen=True, kw_only=True):
    name: str = ""
    action: Literal["ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE"] = "ANY"


class VirtualHostMatch(Spec, frozen=True, kw_only=True):
    name: str = ""  # host:port
    domain_name: str = ""
    route: RouteMatch | None = None


class RouteConfigurationMatch(Spec, frozen=True, kw_only=True):
    port_number: UInt32 = 0
    port_name: str = ""
    gateway: str = ""  # namespace/name
    vhost: VirtualHostMatch | None = None
    name: str = ""


class ClusterMatch(Spec, frozen=True, kw_only=True):
    port_number: UInt32 = 0
    service: str = ""  # FQDN
    subset: str = ""
    name: str = ""  # alone decides when it is set


class WaypointFilterMatch(Spec, frozen=True, kw_only=True):
    name: str = ""
    sub_filter: SubFilterMatch | None = None


class WaypointRouteMatch(Spec, frozen=True, kw_only=True):
    name: str = ""


class WaypointMatch(Spec, frozen=True, kw_only=True):
    port_number: Annotated[int, Meta(ge=0, le=65535)] = 0
    filter: WaypointFilterMatch | None = None
    route: WaypointRouteMatch | None = None


class ObjectMatch(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("listener", "route_configuration", "cluster", "waypoint"),)

    context: PatchContext = "ANY"
    proxy: ProxyMatch | None = None
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None
    waypoint: WaypointMatch | None = None


class Patch(Spec, frozen=True, kw_only=True):
    operation: Operation = "INVALID"
    value: Mapping[str, Any] | None = None  # the Envoy message, free-form
    filter_class: Literal["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED"


class EnvoyConfigObjectPatch(Spec, frozen=True, kw_only=True):
    apply_to: ApplyTo = "INVALID"
    match: ObjectMatch | None = None
    patch: Patch | None = None


class EnvoyFilter(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("workload_selector", "target_refs"),)  # rule EF-16

    workload_selector: WorkloadLabels | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Meta(max_length=16)] = ()
    config_patches: tuple[EnvoyConfigObjectPatch, ...] = ()
    priority: Int32 = 0
