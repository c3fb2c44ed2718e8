"""Nothing that is written is silently ignored: what no code reads is told, and what is acted on is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.api.kinds import kind_info
from lateen.pilot.model.support import STORED_ONLY, UNTAKEN_FIELDS, unsupported

_VERSIONS = {
    "Service": "v1",
    "Telemetry": "telemetry.istio.io/v1",
    "TrafficExtension": "extensions.istio.io/v1alpha1",
    "PeerAuthentication": "security.istio.io/v1",
    "MeshConfig": "mesh.istio.io/v1alpha1",
    "MeshNetworks": "mesh.istio.io/v1alpha1",
}


def _decoded(kind: str, spec: str) -> Object:
    version = _VERSIONS.get(kind, "networking.istio.io/v1")
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
    decoded = decode_documents(text.encode(), "it.yaml")
    assert [problem for problem in decoded.problems if problem.level == "error"] == []
    return decoded.objects[0]


_TO = "route: [{destination: {host: a}}]"
_PORTS = "ports: [{port: 80, name: http}]"


@pytest.mark.parametrize(
    ("kind", "spec", "warned"),
    [
        pytest.param("VirtualService", f"{{hosts: [a], http: [{{{_TO}}}]}}", [], id="routes"),
        pytest.param("VirtualService", "{hosts: [a], http: [{redirect: {uri: /b, redirectCode: 308}}]}", [], id="308"),
        pytest.param(
            "VirtualService",
            '{hosts: [a.b], gateways: [g], http: [{match: [{headers: {"@request.auth.claims.g": {exact: x}}}], '
            f"{_TO}}}]}}",
            [],
            id="claims at a gateway",
        ),
        pytest.param(
            "DestinationRule",
            "{host: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, tls: {mode: ISTIO_MUTUAL}, "
            "connectionPool: {http: {idleTimeout: 5s}, tcp: {maxConnections: 3}}}}",
            [],
            id="policy",
        ),
        pytest.param(
            "DestinationRule",
            "{host: a, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 5s, maxConnectionDuration: 9s}}, "
            "retryBudget: {budgetInterval: 1s}, tunnel: {targetHost: b, targetPort: 1}, "
            "tls: {mode: SIMPLE, credentialName: c}, loadBalancer: {localityLbSetting: {enabled: true}}}}",
            [],
            id="policy in part",
        ),
        pytest.param(
            "DestinationRule",
            "{host: a, subsets: [{name: s, labels: {v: x}}, {name: t, labels: {v: y}, trafficPolicy: "
            "{portLevelSettings: [{port: {number: 80}, loadBalancer: {zoneAwareLbSetting: {enabled: true}}}]}}]}",
            [],
            id="deep below a subset",
        ),
        pytest.param(
            "DestinationRule",
            "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {zoneAwareLbSetting: "
            "{enabled: true}}, tls: {mode: SIMPLE, caCertificates: /c, caCrl: /d}}]}}",
            [],
            id="of one port",
        ),
        pytest.param(
            "Gateway",
            "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}]}",
            [],
            id="plain gateway",
        ),
        pytest.param(
            "Gateway",
            "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], bind: 10.0.0.1, "
            "defaultEndpoint: 'unix:///x'}]}",
            ["spec.servers[0].defaultEndpoint"],
            id="gateway's address",
        ),
        pytest.param(
            "ServiceEntry",
            "{hosts: [a.b], ports: [{number: 80, name: h, protocol: HTTP}], resolution: STATIC, "
            "endpoints: [{address: 10.0.0.1, weight: 3, locality: r/z, network: n}]}",
            [],
            id="endpoints",
        ),
        pytest.param(
            "ServiceEntry",
            "{hosts: ['*.a.b', '*a.b'], ports: [{number: 443, name: t, protocol: TLS, targetPort: 444}, "
            "{number: 80, name: h, protocol: HTTP, targetPort: 81}], resolution: DYNAMIC_DNS}",
            ["spec.hosts[1]", "spec.ports[1].targetPort"],
            id="dynamic dns",
        ),
        pytest.param("WorkloadEntry", "{address: 10.0.0.1, network: n}", [], id="entry's network"),
        pytest.param(
            "MeshNetworks",
            "{networks: {east: {endpoints: [{fromRegistry: lateen}, {fromRegistry: r}, {fromCidr: 10.0.0.0/8}], "
            "gateways: [{address: 10.0.0.1, port: 1}, {address: a.b, port: 1}, {registryServiceName: c.d, port: 1}]}}}",
            ["spec.networks.east.gateways[1].address", "spec.networks.east.endpoints[1].fromRegistry"],
            id="networks",
        ),
        pytest.param(
            "Service",
            f"{{{_PORTS}, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ipFamilies: [IPv4], "
            "ipFamilyPolicy: SingleStack, internalTrafficPolicy: Cluster, sessionAffinity: None, type: ClusterIP}",
            [],
            id="service as Kubernetes writes it out",
        ),
        pytest.param(
            "Service",
            "{type: NodePort, ports: [{port: 80, nodePort: 30080}], sessionAffinity: ClientIP, "
            "internalTrafficPolicy: Local, externalIPs: [1.2.3.4], clusterIPs: [10.96.0.9, 'fd00::1']}",
            [
                "spec.type",
                "spec.clusterIPs",
                "spec.ports[0].nodePort",
            ],
            id="service for others than the mesh",
        ),
        pytest.param(
            "PeerAuthentication",
            "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}}}",
            [],
            id="mutual tls",
        ),
        pytest.param(
            "Telemetry", "{metrics: [{reportingInterval: 5s}]}", ["spec.metrics[0].reportingInterval"], id="telemetry"
        ),
        pytest.param(
            "MeshConfig",
            "{accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode: REGISTRY_ONLY}, connectTimeout: 3s, "
            "proxyListenPort: 15001, enableTracing: false}",
            [],
            id="mesh",
        ),
        pytest.param(
            "MeshConfig",
            "{extensionProviders: [{name: ask, envoyExtAuthzGrpc: {service: a.b, port: 1}}, "
            "{name: trace, zipkin: {service: a.b, port: 1, headers: [{name: x, envName: HOME}]}}, "
            "{name: old, lightstep: {service: a.b, port: 1, accessToken: t}}, "
            "{name: als, envoyHttpAls: {service: a.b, port: 1, filterStateObjectsToLog: [upstream_peer]}}]}",
            [
                "spec.extensionProviders[1].zipkin.headers[0].envName",
                "spec.extensionProviders[2].lightstep",
                "spec.extensionProviders[3].envoyHttpAls.filterStateObjectsToLog",
            ],
            id="mesh providers",
        ),
        pytest.param(
            "MeshConfig",
            "{proxyListenPort: 16001, proxyInboundListenPort: 16006, proxyHttpPort: 8118}",
            ["spec.proxyListenPort", "spec.proxyInboundListenPort"],
            id="mesh ports",
        ),
        pytest.param(
            "MeshConfig",
            "{trustDomain: a.b, defaultHttpRetryPolicy: {attempts: 0}, tcpKeepalive: {time: 5s}, enableTracing: true, "
            "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}, defaultConfig: "
            "{concurrency: 2, drainDuration: 9s, statNameLength: 9, proxyMetadata: {LD_PRELOAD: /x, A: b}}}",
            [
                "spec.defaultConfig.statNameLength",
                "spec.trustDomain",
                "spec.defaultConfig.proxyMetadata[LD_PRELOAD]",
            ],
            id="mesh in part",
        ),
    ],
)
def test_what_is_told(kind: str, spec: str, warned: list[str]) -> None:
    problems = list(unsupported(_decoded(kind, spec)))
    assert [problem.field for problem in problems] == warned
    assert {problem.level for problem in problems} <= {"warning"}


def test_a_kind_that_is_only_stored_is_told_once() -> None:
    told = list(unsupported(_decoded("TrafficExtension", "{lua: {inlineCode: x}}")))
    assert [problem.field for problem in told] == [""]
    assert STORED_ONLY["TrafficExtension"] in told[0].message


def _paths() -> Iterator[Any]:
    for kind, fields in UNTAKEN_FIELDS.items():
        for path in fields:
            yield pytest.param(kind, path, id=f"{kind} {path}")


@pytest.mark.parametrize(("kind", "path"), list(_paths()))
def test_each_path_of_the_table_is_one_of_the_api(kind: str, path: str) -> None:
    info = kind_info(kind)
    assert info is not None
    structs: list[type[msgspec.Struct]] = [info.spec]
    for step in path.split("."):
        if step == "*":
            continue
        name = step.removesuffix("[]")
        fields = [field for struct in structs for field in msgspec.structs.fields(struct) if field.encode_name == name]
        assert fields, f"{name} is no field of {structs}"
        structs = [struct for field in fields for struct in _structs(field.type)]


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for part in getattr(kind, "__args__", ()) for struct in _structs(part)]
