"""What is acted on so far. Everything else that is written is decoded, stored, and said so: never silently ignored.

The table lists field paths that nothing reads yet. A kind that is in no table is acted on as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from lateen.api.base import Object, Problem

__all__ = ["STORED_ONLY", "unsupported"]

# Kinds that are decoded and stored, and why that matters to whoever wrote one.
STORED_ONLY: Mapping[str, str] = {
    "AuthorizationPolicy": "it is NOT enforced: requests are not checked against it",
    "RequestAuthentication": "tokens are not checked",
    "Telemetry": "the standard metrics are reported as if it were not there",
    "WasmPlugin": "no extension is loaded",
    "TrafficExtension": "no extension is loaded",
    "EnvoyFilter": "no patch is applied",
    "Sidecar": "sidecars see every service",
    "WorkloadGroup": "no workload is registered by it",
    "ProxyConfig": "proxies run with the defaults",
    "MeshNetworks": "the mesh is one network",
}

# Fields, by kind, whose setting has no effect yet; `[]` stands for each element of a list.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "VirtualService": ("http[].delegate",),
    "DestinationRule": (
        "trafficPolicy.loadBalancer.localityLbSetting",
        "trafficPolicy.tunnel",
        "subsets[].trafficPolicy.loadBalancer.localityLbSetting",
        "subsets[].trafficPolicy.tunnel",
    ),
    "MeshConfig": (
        "extensionProviders",
        "defaultProviders",
        "localityLbSetting",
        "ca",
        "caCertificates",
        "certificates",
        "discoverySelectors",
        "serviceSettings",
        "serviceScopeConfigs",
        "tlsDefaults",
        "meshMTLS",
        "pathNormalization",
        "proxyHttpPort",
        "ingressService",
        "ingressSelector",
        "ingressControllerMode",
        "defaultServiceExportTo",
        "defaultVirtualServiceExportTo",
        "defaultDestinationRuleExportTo",
        "inboundClusterStatName",
        "outboundClusterStatName",
        "verifyCertificateAtClient",
    ),
    "ServiceEntry": (),
}


def unsupported(obj: Object) -> Iterator[Problem]:
    """Yield a warning for each part of `obj` that nothing acts on."""
    consequence = STORED_ONLY.get(obj.key.kind)
    if consequence is not None:
        yield obj.problem("", f"{obj.key.kind} is decoded and stored but not acted on yet: {consequence}", "warning")
        return
    if obj.key.kind == "ServiceEntry" and obj.spec.resolution == "DYNAMIC_DNS":
        yield obj.problem("spec.resolution", "DYNAMIC_DNS is decoded and stored but not acted on yet", "warning")
    for path in _FIELDS.get(obj.key.kind, ()):
        for place in _places(obj.spec, path.split("."), "spec"):
            yield obj.problem(place, "decoded and stored but not acted on yet", "warning")


def _places(value: Any, steps: list[str], prefix: str) -> Iterator[str]:
    """Yield the path of each place below `value` that is set."""
    if not steps:
        yield prefix
        return
    name = steps[0].removesuffix("[]")
    kind: type[msgspec.Struct] = type(value)
    attribute = _attribute(kind, name)
    if attribute is None:
        return
    found = getattr(value, attribute)
    if found is None or found == () or found == {}:
        return
    if steps[0].endswith("[]"):
        for position, element in enumerate(found):
            yield from _places(element, steps[1:], f"{prefix}.{name}[{position}]")
    else:
        yield from _places(found, steps[1:], f"{prefix}.{name}")


@cache
def _attribute(kind: type[msgspec.Struct], name: str) -> str | None:
    """Return the attribute that YAML spells `name`. Kept: msgspec reads all annotations anew each time."""
    return next((field.name for field in msgspec.structs.fields(kind) if field.encode_name == name), None)
