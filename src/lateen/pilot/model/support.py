"""What is acted on so far. Everything else that is written is decoded, stored, and said so: never silently ignored.

The table lists field paths that nothing reads yet. A kind that is in no table is acted on as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from lateen.api.base import Object, Problem
from lateen.api.names import is_ip, is_partial_wildcard
from lateen.api.protocol import known_protocol
from lateen.api.providers import BUILT_IN_PROVIDERS
from lateen.pilot.model.proxy_config import is_allowed_variable
from lateen.pilot.registry.values import CLUSTER_ID

__all__ = ["STORED_ONLY", "UNTAKEN_FIELDS", "unsupported"]

# Kinds that are decoded and stored, and why that matters to whoever wrote one.
STORED_ONLY: Mapping[str, str] = {
    "WasmPlugin": "no extension is loaded",
    "TrafficExtension": "no extension is loaded",
}

_SETTLED = "capture is set up before a proxy hears of the mesh"

# Of a proxy's own configuration, what has no effect, and why.
_DEFAULT_CONFIG: Mapping[str, str] = {
    **dict.fromkeys(("configPath", "binaryPath"), "the agent finds its Envoy and its folder itself"),
    **dict.fromkeys(("customConfigFile", "proxyBootstrapTemplatePath"), "patch the bootstrap by an EnvoyFilter"),
    **dict.fromkeys(("discoveryAddress", "controlPlaneAuthPolicy"), "the control plane is reached by its socket"),
    **dict.fromkeys(("proxyAdminPort", "statusPort"), "the agent's ports and sockets are fixed"),
    **dict.fromkeys(("discoveryRefreshDelay", "availabilityZone", "sds"), "it is deprecated and has no effect"),
    **dict.fromkeys(("zipkinAddress", "statsdUdpAddress", "envoyMetricsServiceAddress", "envoyMetricsService"), ""),
    "envoyAccessLogService": "name an extensionProvider envoyHttpAls or envoyTcpAls",
    **dict.fromkeys(
        ("tracing.lightstep", "tracing.stackdriver", "tracing.openCensusAgent"), "Envoy has no such tracer any more"
    ),
    "tracing.tlsSettings": "the tracer is a service of the mesh, reached as its DestinationRule says",
    "statNameLength": "Envoy has no such limit any more",
    "interceptionMode": "it is chosen by lateen run --mode",
    "extraStatTags": "",
    "readinessProbe": "use the probe of a WorkloadGroup",
    "holdApplicationUntilProxyStarts": "the application always waits for its proxy",
    "caCertificatesPem": "",
    "image": "proxies are started from the machine's own Envoy",
    "privateKeyProvider": "this Envoy has no such hardware",
    "proxyHeaders": "",
    "statsCompression": "",
    **{
        f"connectionSettings.{name}": ""
        for name in (
            "profile",
            "listenerPerConnectionBufferLimitBytes",
            "clusterPerConnectionBufferLimitBytes",
            "httpIdleTimeout",
            "httpMaxConnectionDuration",
            "httpDrainTimeout",
            "httpRequestTimeout",
            "httpRequestHeadersTimeout",
            "httpStreamIdleTimeout",
            "httpMaxStreamDuration",
            "httpMaxConcurrentStreams",
            "http2InitialStreamWindowSize",
            "http2InitialConnectionWindowSize",
            "httpHeadersWithUnderscoresAction",
            "httpMergeSlashes",
            "httpPathWithEscapedSlashesAction",
            "listenerConnectionLimit",
        )
    },
}

# Fields, by kind, whose setting has no effect yet, and what happens in their place. `[]` stands for each element of a
# list, `*` for each field that is set.
UNTAKEN_FIELDS: Mapping[str, Mapping[str, str]] = {
    "Gateway": {
        "servers[].defaultEndpoint": "Istio does not act on it either: requests go by the routes of VirtualServices",
    },
    "WorkloadGroup": {"template.address": "a workload has the address that it is given when it starts"},
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
    "Telemetry": {"metrics[].reportingInterval": "Envoy tells the bytes of a connection when it ends"},
    "ProxyConfig": {"image.imageType": "proxies are started from the machine's own Envoy"},
    "MeshConfig": {
        **dict.fromkeys(
            (
                "discoverySelectors",
                "ingressClass",
                "ingressService",
                "ingressSelector",
                "ingressControllerMode",
                "configSources",
                "caCertificates[].certSigners",
                "ca",
                "verifyCertificateAtClient",
                "certificates",
                "enableEnvoyAccessLogService",
            ),
            "",
        ),
        "hboneIdleTimeout": "there is no ambient mode, so no proxy speaks HBONE",
        "proxyListenPort": f"captured connections arrive at 15001: {_SETTLED}",
        "proxyInboundListenPort": f"captured connections arrive at 15006: {_SETTLED}",
        **{f"defaultConfig.{name}": told for name, told in _DEFAULT_CONFIG.items()},
        **dict.fromkeys(
            ("serviceSettings", "serviceScopeConfigs"), "the mesh is one cluster, so every service is local"
        ),
        "trustDomain": "identities have the trust domain that the control plane was started with",
    },
}

# Types of `extensionProviders` that nothing acts on, and fields of the others.
_PROVIDERS: Mapping[str, str] = {
    "lightstep": "Envoy has no such tracer any more: use opentelemetry",
    "opencensus": "Envoy has no such tracer any more: use opentelemetry",
    "stackdriver": "this Envoy has no such exporter: use opentelemetry",
    "sds": "secrets of gateways are Secrets",
}
_SECRETS_STAY = "no variable of the control plane is given away: write a value"
_PROVIDER_FIELDS: Mapping[str, str] = {
    "filterStateObjectsToLog": "this Envoy has none of them: a peer's labels are dynamic metadata istio.peer",
    "headers[].envName": _SECRETS_STAY,
    "http.headers[].envName": _SECRETS_STAY,
    "grpc.initialMetadata[].envName": _SECRETS_STAY,
    "resourceDetectors.dynatrace": "use the environment of the proxy",
    "dynatraceSampler": "requests are sampled by randomSamplingPercentage",
    "serviceAttributeEnrichment": "the service of a span is the canonical service of its workload",
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
    ("MeshConfig", "enableEnvoyAccessLogService"): (False,),
}

HEALTH_ANNOTATION = "proxy.istio.io/health-checks-enabled"


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
            if (kind, path) == ("Service", "clusterIPs") and not any(":" in address for address in value):
                continue
            yield place, consequence
    match kind:
        case "ServiceEntry":
            yield from _untaken_entry(obj)
        case "WorkloadEntry" if obj.annotations.get(HEALTH_ANNOTATION) == "true":
            yield "metadata.annotations", f"{HEALTH_ANNOTATION}: nobody asks what is written down, so it counts as well"
        case "MeshConfig":
            yield from _untaken_mesh(obj)
        case "ProxyConfig":
            yield from _unset(obj.spec.environment_variables, "spec.environmentVariables")
        case "MeshNetworks":
            yield from _untaken_networks(obj)


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


def _unset(variables: Mapping[str, str] | None, place: str) -> Iterator[tuple[str, str]]:
    """Yield the variables that configuration may not set."""
    for name in variables or {}:
        if not is_allowed_variable(name):
            yield f"{place}[{name}]", "it would change which program runs, or is no name of a variable"


def _untaken_mesh(obj: Object) -> Iterator[tuple[str, str]]:
    """Yield what of a MeshConfig depends on more than its fields being set."""
    if obj.spec.default_config is not None:
        yield from _unset(obj.spec.default_config.proxy_metadata, "spec.defaultConfig.proxyMetadata")
    for i, provider in enumerate(obj.spec.extension_providers or ()):
        if provider not in BUILT_IN_PROVIDERS:
            yield from _untaken_provider(provider, f"spec.extensionProviders[{i}]")
    visibility = obj.spec.service_entry_visibility
    if visibility is not None and not visibility.apply_to_sidecars:
        yield "spec.serviceEntryVisibility", "without applyToSidecars it is for ambient proxies, which are none"


def _untaken_provider(provider: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield what of a provider has no effect."""
    for kind, consequence in _PROVIDERS.items():
        if getattr(provider, kind) is not None:
            yield f"{place}.{kind}", consequence
    for kind in ("zipkin", "opentelemetry", "envoy_http_als", "envoy_tcp_als"):
        body = getattr(provider, kind)
        for path, consequence in _PROVIDER_FIELDS.items() if body is not None else ():
            if hasattr(body, _snake(path.split(".")[0].removesuffix("[]"))):
                for found, _ in _places(body, path.split("."), f"{place}.{_yaml(kind)}"):
                    yield found, consequence


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def _yaml(kind: str) -> str:
    first, *rest = kind.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _untaken_networks(obj: Object) -> Iterator[tuple[str, str]]:
    """Yield what of a MeshNetworks is nowhere."""
    for name, network in obj.spec.networks.items():
        for i, gateway in enumerate(network.gateways):
            if gateway.address and not is_ip(gateway.address):
                yield f"spec.networks.{name}.gateways[{i}].address", "names of gateways are not looked up: write an IP"
        for i, endpoints in enumerate(network.endpoints):
            if endpoints.from_registry and endpoints.from_registry != CLUSTER_ID:
                place = f"spec.networks.{name}.endpoints[{i}].fromRegistry"
                yield place, f"the one registry of this mesh is {CLUSTER_ID!r}"


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
