"""What is acted on so far. Everything else that is written is decoded, stored, and said so: never silently ignored.

The table lists field paths that nothing reads yet. A kind that is in no table is acted on as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from lateen.api.base import Object, Problem
from lateen.api.names import is_partial_wildcard
from lateen.api.protocol import known_protocol

__all__ = ["STORED_ONLY", "UNTAKEN_FIELDS", "unsupported"]

# Kinds that are decoded and stored, and why that matters to whoever wrote one.
STORED_ONLY: Mapping[str, str] = {
    "AuthorizationPolicy": "it is NOT enforced: requests are not checked against it",
    "RequestAuthentication": "tokens are not checked",
    "Telemetry": "the standard metrics are reported as if it were not there",
    "WasmPlugin": "no extension is loaded",
    "TrafficExtension": "no extension is loaded",
    "ProxyConfig": "proxies run with the defaults",
    "MeshNetworks": "the mesh is one network",
}

_SETTLED = "capture is set up before a proxy hears of the mesh"

# Fields, by kind, whose setting has no effect yet, and what happens in their place. `[]` stands for each element of a
# list, `*` for each field that is set.
UNTAKEN_FIELDS: Mapping[str, Mapping[str, str]] = {
    "Gateway": {
        "servers[].defaultEndpoint": "Istio does not act on it either: requests go by the routes of VirtualServices",
    },
    "Sidecar": {"ingress[].tls": "TLS is passed on to the application"},
    "ServiceEntry": {"endpoints[].network": "the mesh is one network"},
    "WorkloadGroup": {"template.address": "a workload has the address that it is given when it starts"},
    "WorkloadEntry": {"network": "the mesh is one network"},
    "Service": {
        "type": "no port of the machine is opened for it",
        "clusterIPs": "workloads reach each other by IPv4 alone: the first IPv4 address is the service's",
        "ipFamilies": "workloads reach each other by IPv4 alone",
        "ipFamilyPolicy": "workloads reach each other by IPv4 alone",
        "sessionAffinityConfig": "a client's address decides, so it stays with its endpoint for ever",
        "externalTrafficPolicy": "all endpoints are used",
        "topologyKeys": "all endpoints are used alike",
        "loadBalancerClass": "there is no load balancer",
        "loadBalancerIP": "there is no load balancer",
        "loadBalancerSourceRanges": "there is no load balancer",
        "allocateLoadBalancerNodePorts": "there is no load balancer",
        "healthCheckNodePort": "there is no load balancer",
        "ports[].nodePort": "no port of the machine is opened for it",
    },
    "MeshConfig": {
        **dict.fromkeys(
            (
                "serviceEntryVisibility",
                "serviceSettings",
                "serviceScopeConfigs",
                "discoverySelectors",
                "ingressClass",
                "ingressService",
                "ingressSelector",
                "ingressControllerMode",
                "pathNormalization",
                "configSources",
                "caCertificates",
                "ca",
                "meshMTLS",
                "verifyCertificateAtClient",
                "certificates",
                "enableTracing",
                "enableEnvoyAccessLogService",
                "disableEnvoyListenerLog",
                "enablePrometheusMerge",
                "extensionProviders",
                "defaultProviders",
                "defaultConfig.*",
            ),
            "",
        ),
        "hboneIdleTimeout": "there is no ambient mode, so no proxy speaks HBONE",
        "proxyListenPort": f"captured connections arrive at 15001: {_SETTLED}",
        "proxyInboundListenPort": f"captured connections arrive at 15006: {_SETTLED}",
        "trustDomain": "identities have the trust domain that the control plane was started with",
    },
}

# Values, beside a field's own default, that ask for what happens anyway.
_HARMLESS: Mapping[tuple[str, str], tuple[Any, ...]] = {
    ("Service", "type"): ("ExternalName",),
    ("Service", "ipFamilies"): (("IPv4",),),
    ("Service", "ipFamilyPolicy"): ("SingleStack",),
    ("Service", "externalTrafficPolicy"): ("Cluster",),
    ("Service", "allocateLoadBalancerNodePorts"): (False,),
    ("MeshConfig", "proxyListenPort"): (15001,),
    ("MeshConfig", "proxyInboundListenPort"): (15006,),
    ("MeshConfig", "enableTracing"): (False,),
    ("MeshConfig", "enableEnvoyAccessLogService"): (False,),
    ("MeshConfig", "disableEnvoyListenerLog"): (False,),
    ("MeshConfig", "enablePrometheusMerge"): (False,),
}

_TAKEN_OF_ALL = frozenset({"spec.defaultConfig.gatewayTopology"})  # of the fields that a `*` stands for
_CLAIMS = "@request.auth.claims"


def unsupported(obj: Object) -> Iterator[Problem]:
    """Yield a warning for each part of `obj` that nothing acts on."""
    kind = obj.key.kind
    consequence = STORED_ONLY.get(kind)
    if consequence is not None:
        yield obj.problem("", f"{kind} is decoded and stored but not acted on yet: {consequence}", "warning")
        return
    for place, told in _untaken(obj):
        message = "decoded and stored but not acted on yet"
        yield obj.problem(place, f"{message}: {told}" if told else message, "warning")


def _untaken(obj: Object) -> Iterator[tuple[str, str]]:
    """Yield (field, what happens in its place) for all that is set and not acted on."""
    kind = obj.key.kind
    for path, consequence in UNTAKEN_FIELDS.get(kind, {}).items():
        for place, value in _places(obj.spec, path.split("."), "spec"):
            if value in _HARMLESS.get((kind, path), ()):
                continue
            if place in _TAKEN_OF_ALL:
                continue
            if (kind, path) == ("Service", "clusterIPs") and not any(":" in address for address in value):
                continue
            yield place, consequence
    match kind:
        case "ServiceEntry":
            yield from _untaken_entry(obj)
        case "VirtualService":
            yield from _untaken_rules(obj)


def _untaken_entry(obj: Object) -> Iterator[tuple[str, str]]:
    """Yield what of a ServiceEntry depends on more than its fields being set."""
    protocols = [known_protocol(port.protocol) for port in obj.spec.ports]
    for i, host in enumerate(obj.spec.hosts):
        if is_partial_wildcard(host) and any(protocol is not None and protocol.is_tls for protocol in protocols):
            yield (
                f"spec.hosts[{i}]",
                "a wildcard inside a label is no server name of TLS: write whole labels, *.foo.com",
            )
    for i, port in enumerate(obj.spec.ports):
        protocol = protocols[i]
        if obj.spec.resolution == "DYNAMIC_DNS" and port.target_port and protocol is not None and protocol.is_http:
            yield f"spec.ports[{i}].targetPort", "a request goes to the port that its host names"


def _untaken_rules(obj: Object) -> Iterator[tuple[str, str]]:
    """Yield what of a VirtualService depends on more than its fields being set."""
    for i, rule in enumerate(obj.spec.http):
        for j, match in enumerate(rule.match):
            for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
                for header in headers:
                    if header.lower().startswith(_CLAIMS):
                        yield (
                            f"spec.http[{i}].match[{j}].{field}[{header}]",
                            "tokens are not read, so no claim is known",
                        )


def _places(value: Any, steps: list[str], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each place below `value` that is set to something else than its default."""
    if not steps:
        yield prefix, value
        return
    name = steps[0].removesuffix("[]")
    if name == "*":
        for own in msgspec.structs.fields(type(value)):
            yield from _places(value, [own.encode_name, *steps[1:]], prefix)
        return
    kind: type[msgspec.Struct] = type(value)
    found_field = _field(kind, name)
    found = getattr(value, found_field.name)
    if found is None or found == () or found == {} or found == found_field.default:
        return
    if steps[0].endswith("[]"):
        for position, element in enumerate(found):
            yield from _places(element, steps[1:], f"{prefix}.{name}[{position}]")
    else:
        yield from _places(found, steps[1:], f"{prefix}.{name}")


@cache
def _field(kind: type[msgspec.Struct], name: str) -> msgspec.structs.FieldInfo:
    """Return the field that YAML spells `name`. Kept: msgspec reads all annotations anew each time."""
    for field in msgspec.structs.fields(kind):
        if field.encode_name == name:
            return field
    raise LookupError(f"{kind.__name__} has no field {name!r}: the table of what is not acted on names it")
