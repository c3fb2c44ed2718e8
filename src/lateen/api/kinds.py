"""Every kind that is read: its group, versions, struct and check. The one table to add a kind to.

Structs and checks are named, and imported when the first resource of their kind comes: a command that reads no
Telemetry does not pay for it. A test resolves every name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from lateen.api.base import KindInfo, Object, Problem

__all__ = ["CORE_KINDS", "GROUPS", "KINDS", "kind_info"]

NETWORKING: Final = "networking.istio.io"
SECURITY: Final = "security.istio.io"
TELEMETRY: Final = "telemetry.istio.io"
EXTENSIONS: Final = "extensions.istio.io"
MIXER: Final = "mixer.lateen.io"  # ours
MESH: Final = "mesh.istio.io"  # ours: Istio has MeshConfig in a ConfigMap only, which is read too
CORE: Final = ""

_NETWORKING_VERSIONS: Final = ("v1", "v1beta1", "v1alpha3")
_SECURITY_VERSIONS: Final = ("v1", "v1beta1")


@dataclass(frozen=True, slots=True)
class _Kind:
    group: str
    versions: tuple[str, ...]
    struct: str  # "module:name" below lateen.api
    check: str  # likewise, "" for none
    namespaced: bool = True
    spec_required: bool = False
    inline: bool = False


_TABLE: Final = {
    "VirtualService": _Kind(
        NETWORKING,
        _NETWORKING_VERSIONS,
        "virtual_service:VirtualService",
        "check_virtual_service:check_virtual_service",
    ),
    "DestinationRule": _Kind(
        NETWORKING,
        _NETWORKING_VERSIONS,
        "destination_rule:DestinationRule",
        "check_destination_rule:check_destination_rule",
    ),
    "Gateway": _Kind(NETWORKING, _NETWORKING_VERSIONS, "gateway:Gateway", "check_gateway:check_gateway"),
    "ServiceEntry": _Kind(
        NETWORKING,
        _NETWORKING_VERSIONS,
        "service_entry:ServiceEntry",
        "check_service_entry:check_service_entry",
        spec_required=True,
    ),
    "WorkloadEntry": _Kind(
        NETWORKING,
        _NETWORKING_VERSIONS,
        "workload_entry:WorkloadEntry",
        "check_workloads:check_workload_entry",
        spec_required=True,
    ),
    "WorkloadGroup": _Kind(
        NETWORKING,
        _NETWORKING_VERSIONS,
        "workload_group:WorkloadGroup",
        "check_workloads:check_workload_group",
        spec_required=True,
    ),
    "Sidecar": _Kind(NETWORKING, _NETWORKING_VERSIONS, "sidecar:Sidecar", "check_sidecar:check_sidecar"),
    "ProxyConfig": _Kind(NETWORKING, ("v1beta1",), "proxy_config:ProxyConfig", "check_workloads:check_proxy_config"),
    "EnvoyFilter": _Kind(
        NETWORKING, ("v1alpha3",), "envoy_filter:EnvoyFilter", "check_envoy_filter:check_envoy_filter"
    ),
    "AuthorizationPolicy": _Kind(
        SECURITY, _SECURITY_VERSIONS, "security:AuthorizationPolicy", "check_security:check_authorization_policy"
    ),
    "PeerAuthentication": _Kind(
        SECURITY, _SECURITY_VERSIONS, "security:PeerAuthentication", "check_security:check_peer_authentication"
    ),
    "RequestAuthentication": _Kind(
        SECURITY, _SECURITY_VERSIONS, "security:RequestAuthentication", "check_security:check_request_authentication"
    ),
    "Rule": _Kind(MIXER, ("v1alpha1",), "mixer:Rule", "check_mixer:check_rule", spec_required=True),
    "Telemetry": _Kind(TELEMETRY, ("v1", "v1alpha1"), "telemetry:Telemetry", "check_telemetry:check_telemetry"),
    "WasmPlugin": _Kind(
        EXTENSIONS, ("v1alpha1",), "extensions:WasmPlugin", "check_extensions:check_wasm_plugin", spec_required=True
    ),
    "TrafficExtension": _Kind(
        EXTENSIONS,
        ("v1alpha1",),
        "extensions:TrafficExtension",
        "check_extensions:check_traffic_extension",
        spec_required=True,
    ),
    "MeshConfig": _Kind(MESH, ("v1alpha1",), "mesh:MeshConfig", "check_mesh:check_mesh_config", namespaced=False),
    "MeshNetworks": _Kind(MESH, ("v1alpha1",), "mesh:MeshNetworks", "check_mesh:check_mesh_networks", namespaced=False),
    "Service": _Kind(CORE, ("v1",), "core:ServiceSpec", "check_core:check_service"),
    "Namespace": _Kind(CORE, ("v1",), "core:NamespaceSpec", "", namespaced=False),
    "Secret": _Kind(CORE, ("v1",), "secret:SecretBody", "check_secret:check_secret", inline=True),
    "ServiceAccount": _Kind(CORE, ("v1",), "core:ServiceAccountBody", "", inline=True),
}

KINDS: Final = tuple(_TABLE)
GROUPS: Final = frozenset(kind.group for kind in _TABLE.values())

# Kinds of Kubernetes' core group that are not read, so that a file may hold them without being thought misspelt.
CORE_KINDS: Final = frozenset(
    {
        "Binding",
        "ComponentStatus",
        "ConfigMap",
        "Endpoints",
        "Event",
        "LimitRange",
        "Node",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ReplicationController",
        "ResourceQuota",
    }
)


@cache
def kind_info(kind: str) -> KindInfo | None:
    """Return what is known of a kind, None for an unknown one."""
    entry = _TABLE.get(kind)
    if entry is None:
        return None
    return KindInfo(
        group=entry.group,
        versions=entry.versions,
        spec=_named(entry.struct),
        namespaced=entry.namespaced,
        spec_required=entry.spec_required,
        inline=entry.inline,
        check=_named(entry.check) if entry.check else _nothing,
    )


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"lateen.api.{module}"), attribute)


def _nothing(obj: Object) -> Iterator[Problem]:
    return iter(())
