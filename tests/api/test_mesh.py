"""MeshConfig and MeshNetworks: what is read, what is refused, and what holds once sources and defaults are merged."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from tests.fakes.judging import faults, judge, read_spec, refusal

from lateen.api.check_mesh_proxy import is_host_port
from lateen.api.mesh import (
    DEFAULT_MESH,
    DEFAULT_RETRY,
    MeshConfig,
    effective_connections,
    effective_mesh,
    find_provider,
)

MESH = """
accessLogFile: /dev/stdout
accessLogEncoding: JSON
accessLogFormat: '{"code":"%RESPONSE_CODE%","path":"%REQ(:PATH)%"}'
connectTimeout: 4s
protocolDetectionTimeout: 0s
rootNamespace: mesh-admin
trustDomain: prod.example.org
trustDomainAliases: ["old.example.org"]
enableAutoMtls: true
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
inboundTrafficPolicy: {mode: PASSTHROUGH}
defaultServiceExportTo: ["."]
discoverySelectors:
- matchLabels: {mesh: enabled}
- matchExpressions:
  - {key: team, operator: In, values: [web, data]}
pathNormalization: {normalization: MERGE_SLASHES}
meshMTLS: {minProtocolVersion: TLSV1_3}
tlsDefaults: {ecdhCurves: [X25519, P-256]}
defaultHttpRetryPolicy: {attempts: 1, retryOn: "connect-failure,refused-stream"}
defaultTrafficPolicy:
  outlierDetection: {consecutive5xxErrors: 8, interval: 15s}
localityLbSetting:
  enabled: true
  failover: [{from: eu-1, to: eu-2}]
serviceEntryVisibility:
  defaultVisibility: NAMESPACE
  applyToSidecars: true
  policies:
  - visibility: PUBLIC
    matchingRules:
    - namespaceSelector: {matchLabels: {egress: shared}}
defaultProviders: {metrics: [prometheus], tracing: [otel]}
extensionProviders:
- name: otel
  opentelemetry:
    service: observability/collector.observability.svc.cluster.local
    port: 4317
    grpc: {timeout: 2s, initialMetadata: [{name: x-tenant, value: prod}]}
- name: opa
  envoyExtAuthzGrpc:
    service: opa.authz.svc.cluster.local
    port: 9191
    timeout: 250ms
    failOpen: false
    statusOnError: "503"
    includeRequestBodyInCheck: {maxRequestBytes: 4096, allowPartialMessage: true}
- name: jsonlog
  envoyFileAccessLog:
    path: /var/log/mesh.json
    omitEmptyValues: true
    logFormat: {labels: {status: "%RESPONSE_CODE%"}}
defaultConfig:
  discoveryAddress: control.mesh-admin.svc:15012
  concurrency: 2
  tracing: {sampling: 5}
  proxyMetadata: {ISTIO_META_DNS_CAPTURE: "true"}
  gatewayTopology: {numTrustedProxies: 1}
  proxyHeaders: {server: {disabled: true}, preserveHttp1HeaderCase: true}
  connectionSettings: {profile: EDGE, httpMaxConcurrentStreams: 200}
"""

# The fields that the example above leaves out; together they are all there are.
REST = """
proxyListenPort: 15001
proxyInboundListenPort: 15006
proxyHttpPort: 0
hboneIdleTimeout: 1h
tcpKeepalive: {probes: 3, time: 10s, interval: 1s}
dnsRefreshRate: 60s
h2UpgradePolicy: UPGRADE
defaultInboundHttpRetryPolicy: {attempts: 1, retryOn: reset-before-request, backoff: 10ms}
zoneAwareLbSetting: {enabled: true, minClusterSize: 3}
defaultVirtualServiceExportTo: ["*"]
hostOwnership: namespace
gatewayOwnership: namespace
defaultDestinationRuleExportTo: ["*"]
serviceSettings: [{settings: {clusterLocal: true}, hosts: ["*.shop.svc.cluster.local"]}]
serviceScopeConfigs:
- {namespaceSelector: {matchLabels: {a: b}}, servicesSelector: {matchLabels: {c: d}}, scope: GLOBAL}
ingressClass: istio
ingressService: istio-ingressgateway
ingressSelector: ingressgateway
ingressControllerMode: STRICT
configSources: [{address: "fs:///etc/mesh", tlsSettings: {mode: SIMPLE}, subscribedResources: [SERVICE_REGISTRY]}]
caCertificates: [{pem: a, certSigners: [b], trustDomains: [c]}, {spiffeBundleUrl: "https://a", trustDomains: [d.e]}]
ca: {address: "ca:443", tlsSettings: {mode: SIMPLE}, requestTimeout: 10s, istiodSide: true}
verifyCertificateAtClient: true
certificates: [{secretName: a, dnsNames: [b]}]
enableTracing: true
enableEnvoyAccessLogService: true
disableEnvoyListenerLog: true
inboundClusterStatName: "%SERVICE%"
outboundClusterStatName: "%SERVICE%"
enablePrometheusMerge: true
"""

# Every field of a proxy's settings.
PROXY = """
defaultConfig:
  configPath: ./etc
  binaryPath: /envoy
  serviceCluster: c
  drainDuration: 45s
  terminationDrainDuration: 5s
  discoveryAddress: "[::1]:15012"
  discoveryRefreshDelay: 1s
  zipkinAddress: zipkin:9411
  statsdUdpAddress: statsd:8125
  envoyMetricsServiceAddress: metrics:15000
  envoyMetricsService: {address: "metrics:15000", tlsSettings: {mode: SIMPLE}, tcpKeepalive: {probes: 1}}
  envoyAccessLogService: {address: "logs:15000"}
  proxyAdminPort: 15000
  statusPort: 15020
  availabilityZone: a
  controlPlaneAuthPolicy: NONE
  customConfigFile: /a
  proxyBootstrapTemplatePath: /b
  statNameLength: 189
  concurrency: 0
  interceptionMode: TPROXY
  tracing:
    zipkin: {address: "$(HOST_IP):9411"}
    customTags:
      a: {literal: {value: b}}
      c: {environment: {name: D, defaultValue: e}}
      f: {header: {name: g}}
    maxPathTagLength: 128
    sampling: 10
    tlsSettings: {mode: SIMPLE}
    enableIstioTags: false
  sds: {enabled: true, k8sSaJwtPath: /token}
  proxyMetadata: {A: b}
  runtimeValues: {a: "1"}
  extraStatTags: [a]
  gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: SANITIZE, proxyProtocol: {}}
  meshId: m
  readinessProbe: {httpGet: {path: /, port: 80}}
  proxyStatsMatcher: {inclusionPrefixes: [a], inclusionSuffixes: [b], inclusionRegexps: [c]}
  holdApplicationUntilProxyStarts: true
  caCertificatesPem: [a]
  image: {imageType: distroless}
  privateKeyProvider: {cryptomb: {pollDelay: 10ms, fallback: true}}
  proxyHeaders:
    forwardedClientCert: SANITIZE
    setCurrentClientCertDetails: {subject: true, cert: true, chain: false, dns: true, uri: true}
    requestId: {disabled: true}
    server: {disabled: false, value: me}
    attemptCount: {disabled: true}
    envoyDebugHeaders: {disabled: true}
    metadataExchangeHeaders: {mode: IN_MESH}
    preserveHttp1HeaderCase: true
    xForwardedHost: {enabled: true}
    xForwardedPort: {enabled: true}
  fileFlushInterval: 1s
  fileFlushMinSizeKb: 64
  statsCompression: false
  connectionSettings:
    profile: SIDECAR
    listenerPerConnectionBufferLimitBytes: 1
    clusterPerConnectionBufferLimitBytes: 1
    httpIdleTimeout: 1h
    httpMaxConnectionDuration: 1h
    httpDrainTimeout: 5s
    httpRequestTimeout: 5m
    httpRequestHeadersTimeout: 60s
    httpStreamIdleTimeout: 0s
    httpMaxStreamDuration: 1h
    httpMaxConcurrentStreams: 1
    http2InitialStreamWindowSize: 65536
    http2InitialConnectionWindowSize: 1048576
    httpHeadersWithUnderscoresAction: HEADERS_WITH_UNDERSCORES_DROP_HEADER
    httpMergeSlashes: true
    httpPathWithEscapedSlashesAction: REJECT_REQUEST
    listenerConnectionLimit: 10
    globalDownstreamConnectionLimit: 10
"""

# One provider of every type, with every field.
PROVIDERS = """
extensionProviders:
- name: a
  envoyExtAuthzHttp:
    service: ns/a.b
    port: 1
    timeout: 1s
    pathPrefix: /check
    failOpen: true
    clearRouteCache: true
    statusOnError: "403"
    includeHeadersInCheck: [x-a]
    includeRequestHeadersInCheck: [x-*]
    includeAdditionalHeadersInCheck: {x-b: c}
    includeRequestBodyInCheck: {maxRequestBytes: 1, allowPartialMessage: true, packAsBytes: true}
    headersToUpstreamOnAllow: [x-a]
    headersToDownstreamOnDeny: [x-a]
    headersToDownstreamOnAllow: [x-a]
- {name: b, envoyExtAuthzGrpc: {service: a.b, port: 1, clearRouteCache: true}}
- name: c
  zipkin:
    service: a.b
    port: 1
    maxTagLength: 1
    enable64bitTraceId: true
    path: /api/v2/spans
    traceContextOption: USE_B3_WITH_W3C_PROPAGATION
    timeout: 5s
    headers: [{name: a, value: b}, {name: c, envName: D}]
- {name: d, datadog: {service: a.b, port: 1, maxTagLength: 1}}
- {name: e, skywalking: {service: a.b, port: 1, accessToken: a}}
- name: f
  opentelemetry:
    service: a.b
    port: 1
    maxTagLength: 1
    http: {path: /v1/traces, timeout: 3s, headers: [{name: a, value: b}]}
    resourceDetectors: {environment: {}, dynatrace: {}}
    serviceAttributeEnrichment: OTEL_SEMANTIC_CONVENTIONS
    dynatraceSampler:
      tenant: t
      clusterId: 7
      rootSpansPerMinute: 1000
      httpService: {service: a.b, port: 1, http: {path: /, timeout: 1s}}
- {name: g, lightstep: {service: a.b, port: 1, accessToken: a, maxTagLength: 1}}
- {name: h, opencensus: {service: a.b, port: 1, context: [B3, GRPC_BIN], maxTagLength: 1}}
- name: i
  stackdriver:
    debug: true
    maxNumberOfAttributes: "200"
    maxNumberOfAnnotations: 200
    maxNumberOfMessageEvents: 200
    maxTagLength: 1
    logging: {labels: {a: b}}
- {name: j, prometheus: {}}
- {name: k, envoyFileAccessLog: {path: /dev/stderr, logFormat: {text: a}}}
- name: l
  envoyHttpAls:
    service: a.b
    port: 1
    logName: n
    filterStateObjectsToLog: [upstream_peer]
    additionalRequestHeadersToLog: [a]
    additionalResponseHeadersToLog: [b]
    additionalResponseTrailersToLog: [c]
- {name: m, envoyTcpAls: {service: a.b, port: 1, logName: n, filterStateObjectsToLog: [upstream_peer]}}
- {name: n, envoyOtelAls: {service: a.b, port: 1, logName: n, logFormat: {text: a, labels: {b: c}}}}
- {name: o, sds: {name: s, service: a.b, port: 1}}
"""

NETWORKS = """
networks:
  dc-east:
    endpoints:
    - fromRegistry: cluster-east
    - fromCidr: 10.64.0.0/12
    gateways:
    - {registryServiceName: eastwest.mesh-admin.svc.cluster.local, port: 15443, locality: us/us-east/a}
  vm-floor:
    endpoints: [{fromCidr: 192.168.40.0/22}]
    gateways: [{address: gw.vms.example.net, port: 15443}]
"""


def mesh(text: str = "{}") -> MeshConfig:
    config: MeshConfig = read_spec("MeshConfig", text)
    return config


def set_fields(spec: Any) -> set[str]:
    return {name for name in spec.__struct_fields__ if getattr(spec, name) not in (None, (), {})}


@pytest.mark.parametrize("spec", [MESH, REST, PROXY, PROVIDERS], ids=["example", "rest", "proxy", "providers"])
def test_settings_that_hold(spec: str) -> None:
    assert judge("MeshConfig", spec) == []


def test_the_examples_cover_every_field() -> None:
    assert set_fields(mesh(MESH)) | set_fields(mesh(REST)) == set(MeshConfig.__struct_fields__)
    proxy = mesh(PROXY).default_config
    assert proxy is not None
    assert set_fields(proxy) == set(proxy.__struct_fields__) - {"tracing_service_name"}
    assert set_fields(proxy.connection_settings) == set(proxy.connection_settings.__struct_fields__)  # type: ignore[union-attr]  # is set above
    providers = mesh(PROVIDERS).extension_providers or ()
    assert set().union(*map(set_fields, providers)) == set(providers[0].__struct_fields__)


def test_values_are_read() -> None:
    config = mesh(MESH)
    assert config.connect_timeout == timedelta(seconds=4)
    assert config.protocol_detection_timeout == timedelta(0)
    assert config.mesh_mtls is not None
    assert config.mesh_mtls.min_protocol_version == "TLSV1_3"
    assert config.default_http_retry_policy is not None
    assert config.default_http_retry_policy.attempts == 1
    assert config.proxy_http_port is None
    assert hash(config)


def test_snake_case_is_read_too() -> None:
    assert mesh("connect_timeout: 1s").connect_timeout == timedelta(seconds=1)


def test_networks_are_read() -> None:
    assert judge("MeshNetworks", NETWORKS) == []
    networks = read_spec("MeshNetworks", NETWORKS).networks
    assert networks["dc-east"].gateways[0].port == 15443
    assert networks["vm-floor"].endpoints[0].from_cidr == "192.168.40.0/22"


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param("proxyListenPort: 0", "proxyListenPort", "65535", id="MC-01"),
        pytest.param("proxyHttpPort: 65536", "proxyHttpPort", "from 0", id="MC-01-http"),
        pytest.param("connectTimeout: 61m", "connectTimeout", "1h", id="MC-02-long"),
        pytest.param("connectTimeout: 0s", "connectTimeout", "1ms", id="MC-02-short"),
        pytest.param("protocolDetectionTimeout: 1.5ms", "protocolDetectionTimeout", "millisecond", id="MC-03"),
        pytest.param(
            "localityLbSetting: {distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]}",
            "localityLbSetting.failover",
            "distribute",
            id="MC-05",
        ),
        pytest.param(
            "localityLbSetting: {distribute: [{from: a, to: {a: 50}}]}",
            "localityLbSetting.distribute[0].to",
            "100",
            id="MC-07",
        ),
        pytest.param(
            "zoneAwareLbSetting: {failover: [{from: a, to: a}]}", "zoneAwareLbSetting.failover[0].to", "", id="MC-08"
        ),
        pytest.param(
            "zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}",
            "zoneAwareLbSetting.failoverPriority[0]",
            "topology",
            id="MC-09",
        ),
        pytest.param("serviceSettings: [{hosts: ['a.*']}]", "serviceSettings[0].hosts[0]", "a.*", id="MC-10"),
        pytest.param("trustDomain: ''", "trustDomain", "DNS labels", id="MC-11-empty"),
        pytest.param("trustDomain: a_b.c", "trustDomain", "a_b.c", id="MC-11"),
        pytest.param("trustDomainAliases: [a, 'b..c']", "trustDomainAliases[1]", "b..c", id="MC-11-alias"),
        pytest.param("meshMTLS: {ecdhCurves: [P-256]}", "meshMTLS.ecdhCurves", "mutual TLS", id="MC-12"),
        pytest.param(
            "defaultTrafficPolicy: {connectionPool: {}}",
            "defaultTrafficPolicy.connectionPool",
            "tcp or http",
            id="MC-15",
        ),
        pytest.param(
            "defaultTrafficPolicy: {connectionPool: {http: {maxRetries: -1}}}",
            "defaultTrafficPolicy.connectionPool.http.maxRetries",
            "-1",
            id="MC-16",
        ),
        pytest.param(
            "defaultTrafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
            "defaultTrafficPolicy.outlierDetection.maxEjectionPercent",
            "101",
            id="MC-17",
        ),
        pytest.param(
            "defaultInboundHttpRetryPolicy: {attempts: -1}", "defaultInboundHttpRetryPolicy.attempts", "-1", id="MC-18"
        ),
        pytest.param(
            "defaultInboundHttpRetryPolicy: {attempts: 0, backoff: 1s}",
            "defaultInboundHttpRetryPolicy.backoff",
            "attempts",
            id="MC-18-backoff",
        ),
        pytest.param("caCertificates: [{}]", "caCertificates[0]", "pem", id="ca-empty"),
        pytest.param(
            "caCertificates: [{pem: a, spiffeBundleUrl: b}]",
            "caCertificates[0].spiffeBundleUrl",
            "only one",
            id="ca-both",
        ),
    ],
)
def test_mesh_settings_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("MeshConfig", spec, "error")
    assert [f for f, _ in found] == [f"spec.{field}"]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param("configPath: ''", "configPath", "empty", id="PX-01"),
        pytest.param("serviceCluster: ''", "serviceCluster", "empty", id="PX-02"),
        pytest.param(
            "serviceCluster: a\ntracingServiceName: CANONICAL_NAME_ONLY",
            "tracingServiceName",
            "only one",
            id="PX-02-both",
        ),
        pytest.param("drainDuration: 1500ms", "drainDuration", "whole seconds", id="PX-03"),
        pytest.param("discoveryAddress: istiod", "discoveryAddress", "host:port", id="PX-04"),
        pytest.param(
            "tracing: {lightstep: {address: 'a:1'}}", "tracing.lightstep.accessToken", "empty", id="PX-05-token"
        ),
        pytest.param(
            "tracing: {lightstep: {accessToken: a}}", "tracing.lightstep.address", "host:port", id="PX-05-address"
        ),
        pytest.param("tracing: {zipkin: {address: a}}", "tracing.zipkin.address", "host:port", id="PX-06"),
        pytest.param(
            "tracing: {zipkin: {address: 'a:1'}, datadog: {address: 'a:1'}}", "tracing.datadog", "only one", id="two"
        ),
        pytest.param("tracing: {tlsSettings: {mode: MUTUAL}}", "tracing.tlsSettings", "", id="PX-07"),
        pytest.param("tracing: {customTags: {a: null}}", "tracing.customTags.a", "null", id="PX-08"),
        pytest.param("statsdUdpAddress: a", "statsdUdpAddress", "host:port", id="PX-09"),
        pytest.param("envoyMetricsService: {address: 'a:0'}", "envoyMetricsService.address", "a:0", id="PX-09-nested"),
        pytest.param("statusPort: 0", "statusPort", "65535", id="PX-11"),
        pytest.param("controlPlaneAuthPolicy: INHERIT", "controlPlaneAuthPolicy", "NONE", id="PX-12"),
        pytest.param("privateKeyProvider: {}", "privateKeyProvider", "qat", id="PX-13"),
        pytest.param("privateKeyProvider: {qat: {}}", "privateKeyProvider.qat.pollDelay", "required", id="PX-13-delay"),
        pytest.param(
            "connectionSettings: {listenerPerConnectionBufferLimitBytes: -1}",
            "connectionSettings.listenerPerConnectionBufferLimitBytes",
            "-1",
            id="PX-14",
        ),
        pytest.param(
            "connectionSettings: {httpIdleTimeout: -1s}",
            "connectionSettings.httpIdleTimeout",
            "negative",
            id="PX-14-time",
        ),
        pytest.param(
            "connectionSettings: {httpMaxConcurrentStreams: 0}",
            "connectionSettings.httpMaxConcurrentStreams",
            "got 0",
            id="PX-15",
        ),
        pytest.param(
            "connectionSettings: {http2InitialStreamWindowSize: 65534}",
            "connectionSettings.http2InitialStreamWindowSize",
            "65535",
            id="PX-16",
        ),
    ],
)
def test_proxy_settings_that_cannot_hold(spec: str, field: str, words: str) -> None:
    below = "defaultConfig:\n" + "\n".join(f"  {line}" for line in spec.splitlines())
    found = faults("MeshConfig", below, "error")
    assert {f.removeprefix("spec.defaultConfig.").startswith(field) for f, _ in found} == {True}
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param("tlsDefaults: {ecdhCurves: [P-255]}", "tlsDefaults.ecdhCurves[0]", id="MC-13"),
        pytest.param("tlsDefaults: {ecdhCurves: [P-256, P-256]}", "tlsDefaults.ecdhCurves[1]", id="MC-14"),
        pytest.param(
            "defaultInboundHttpRetryPolicy: {attempts: 1, perTryTimeout: 1s}",
            "defaultInboundHttpRetryPolicy.perTryTimeout",
            id="MC-19",
        ),
        pytest.param(
            "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_AUTO_ALLOCATE: 'true'}}",
            "defaultConfig.proxyMetadata.ISTIO_META_DNS_AUTO_ALLOCATE",
            id="PX-10",
        ),
        pytest.param("extensionProviders: [{prometheus: {}}]", "extensionProviders[0].name", id="MC-21-empty"),
        pytest.param(
            "extensionProviders: [{name: a, prometheus: {}}, {name: a, stackdriver: {}}]",
            "extensionProviders[1].name",
            id="MC-21-twice",
        ),
        pytest.param(
            "extensionProviders: [{name: a, zipkin: {service: ns/short, port: 1}}]",
            "extensionProviders[0].zipkin.service",
            id="MC-22",
        ),
        pytest.param(
            "extensionProviders: [{name: a, zipkin: {service: a.b, port: 0}}]",
            "extensionProviders[0].zipkin.port",
            id="MC-23",
        ),
        pytest.param(
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 1, statusOnError: '999'}}]",
            "extensionProviders[0].envoyExtAuthzGrpc.statusOnError",
            id="MC-24",
        ),
        pytest.param(
            "extensionProviders: [{name: a, envoyExtAuthzHttp: {service: a.b, port: 1, pathPrefix: a}}]",
            "extensionProviders[0].envoyExtAuthzHttp.pathPrefix",
            id="MC-25",
        ),
        pytest.param(
            "extensionProviders: [{name: a, envoyExtAuthzHttp: {service: a.b, port: 1,"
            " headersToDownstreamOnDeny: ['*']}}]",
            "extensionProviders[0].envoyExtAuthzHttp.headersToDownstreamOnDeny",
            id="bare-star",
        ),
        pytest.param(
            "extensionProviders: [{name: a, lightstep: {service: a.b, port: 1}}]",
            "extensionProviders[0].lightstep.accessToken",
            id="MC-26",
        ),
        pytest.param(
            "extensionProviders: [{name: a, opentelemetry: {service: a.b, port: 1, http: {path: /}, grpc: {}}}]",
            "extensionProviders[0].opentelemetry",
            id="MC-27",
        ),
        pytest.param("extensionProviders: [{name: a}]", "extensionProviders[0]", id="MC-28-none"),
        pytest.param(
            "extensionProviders: [{name: a, prometheus: {}, stackdriver: {}}]", "extensionProviders[0]", id="MC-28-two"
        ),
    ],
)
def test_mesh_settings_that_are_warned_of(spec: str, field: str) -> None:
    assert [(problem.field, problem.level) for problem in judge("MeshConfig", spec)] == [(f"spec.{field}", "warning")]


def network(endpoints: str = "[{fromRegistry: a}]", gateways: str = "[{address: 10.0.0.1, port: 1}]") -> str:
    return f"networks: {{n: {{endpoints: {endpoints}, gateways: {gateways}}}}}"


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param(network(endpoints="[{fromCidr: 10.0.0.0/33}]"), "endpoints[0].fromCidr", "/33", id="MN-01"),
        pytest.param(network(endpoints="[{fromRegistry: a.b}]"), "endpoints[0].fromRegistry", "a.b", id="MN-02"),
        pytest.param(network(endpoints="[{}]"), "endpoints[0]", "fromCidr", id="no-endpoints"),
        pytest.param(
            network(gateways="[{registryServiceName: 'a_b', port: 1}]"),
            "gateways[0].registryServiceName",
            "a_b",
            id="MN-03",
        ),
        pytest.param(network(gateways="[{address: 'a b', port: 1}]"), "gateways[0].address", "a b", id="MN-04"),
        pytest.param(network(gateways="[{address: a, port: 0}]"), "gateways[0].port", "65535", id="MN-05"),
        pytest.param(network(gateways="[{port: 1}]"), "gateways[0]", "address", id="no-address"),
        pytest.param("networks: {n: {endpoints: []}}", "gateways", "required", id="no-gateways"),
    ],
)
def test_networks_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("MeshNetworks", spec, "error")
    assert [f for f, _ in found] == [f"spec.networks.n.{field}"]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("conectTimeout: 1s", "connectTimeout"),
        ("meshMtls: {}", "meshMTLS"),
        ("outboundTrafficPolicy: {mode: ALLOWANY}", "ALLOW_ANY"),
        ("defaultConfig: {holdApplicationUntilProxyStart: true}", "holdApplicationUntilProxyStarts"),
        ("extensionProviders: [{name: a, openTelemetry: {}}]", "opentelemetry"),
    ],
)
def test_a_misspelling_is_refused_with_the_nearest_name(spec: str, hint: str) -> None:
    assert hint in refusal("MeshConfig", spec)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("istiod.istio-system.svc:15012", True),
        ("10.0.0.1:1", True),
        ("[::1]:65535", True),
        ("::1:80", False),
        ("a", False),
        ("a:", False),
        ("a:0", False),
        ("a:65536", False),
        (":80", False),
        ("a:80000000000", False),
    ],
)
def test_host_and_port(text: str, right: bool) -> None:
    assert is_host_port(text) is right


# ---------------------------------------------------------------- what holds


def test_defaults_hold_where_nothing_is_written() -> None:
    assert effective_mesh() == DEFAULT_MESH
    assert effective_mesh(mesh()) == DEFAULT_MESH
    assert DEFAULT_MESH.connect_timeout == timedelta(seconds=10)
    assert DEFAULT_MESH.default_http_retry_policy == DEFAULT_RETRY
    assert DEFAULT_MESH.default_config is not None
    assert DEFAULT_MESH.default_config.drain_duration == timedelta(seconds=45)


def test_a_field_replaces_the_default_as_a_whole() -> None:
    config = effective_mesh(mesh("localityLbSetting: {}\ndefaultHttpRetryPolicy: {attempts: 0}\nenableAutoMtls: false"))
    assert config.locality_lb_setting is not None
    assert config.locality_lb_setting.enabled is None
    assert config.default_http_retry_policy is not None
    assert config.default_http_retry_policy.retry_on == ""
    assert config.enable_auto_mtls is False
    assert config.trust_domain == "cluster.local"


def test_a_later_source_wins() -> None:
    config = effective_mesh(mesh("connectTimeout: 1s\nrootNamespace: a"), mesh("connectTimeout: 2s"))
    assert (config.connect_timeout, config.root_namespace) == (timedelta(seconds=2), "a")


def test_trust_domain_aliases_are_united() -> None:
    config = effective_mesh(mesh("trustDomainAliases: [c, a]"), mesh("trustDomainAliases: [b, a]"))
    assert config.trust_domain_aliases == ("a", "b", "c")


def test_providers_merge_by_name() -> None:
    first = mesh("extensionProviders: [{name: a, prometheus: {}}]")
    second = mesh("extensionProviders: [{name: a, stackdriver: {}}, {name: envoy, envoyFileAccessLog: {path: /x}}]")
    config = effective_mesh(first, second)
    assert [provider.name for provider in config.extension_providers or ()] == [
        "prometheus",
        "stackdriver",
        "envoy",
        "a",
    ]
    envoy, a = find_provider(config, "ENVOY"), find_provider(config, "a")
    assert envoy is not None
    assert envoy.envoy_file_access_log is not None
    assert envoy.envoy_file_access_log.path == "/x"
    assert a is not None
    assert a.prometheus is None
    assert find_provider(config, "nobody") is None


def test_default_providers_merge_by_list() -> None:
    config = effective_mesh(
        mesh("defaultProviders: {metrics: [a], tracing: [b]}"), mesh("defaultProviders: {metrics: []}")
    )
    assert config.default_providers is not None
    assert (config.default_providers.metrics, config.default_providers.tracing) == ((), ("b",))


def test_proxy_settings_merge_field_by_field() -> None:
    config = effective_mesh(
        mesh(
            "defaultConfig: {proxyMetadata: {A: '1', B: '2'}, concurrency: 1, gatewayTopology: {numTrustedProxies: 1},"
            " proxyHeaders: {server: {value: me}, xForwardedHost: {enabled: true}}}"
        ),
        mesh(
            "defaultConfig: {proxyMetadata: {B: '3'}, gatewayTopology: {forwardClientCertDetails: SANITIZE},"
            " proxyHeaders: {requestId: {disabled: true}}}"
        ),
    )
    proxy = config.default_config
    assert proxy is not None
    assert proxy.proxy_metadata == {"A": "1", "B": "3"}
    assert proxy.concurrency == 1
    assert proxy.status_port == 15020
    assert proxy.gateway_topology is not None
    assert proxy.gateway_topology.num_trusted_proxies is None  # not merged deeper
    assert proxy.proxy_headers is not None
    assert proxy.proxy_headers.server is not None
    assert proxy.proxy_headers.x_forwarded_host is None
    assert hash(config)


def test_naming_the_service_one_way_takes_back_the_other() -> None:
    proxy = effective_mesh(mesh("defaultConfig: {tracingServiceName: CANONICAL_NAME_ONLY}")).default_config
    assert proxy is not None
    assert (proxy.service_cluster, proxy.tracing_service_name) == (None, "CANONICAL_NAME_ONLY")


@pytest.mark.parametrize(
    ("profile", "gateway", "streams", "idle"),
    [
        pytest.param("EDGE", True, 7, timedelta(hours=1), id="edge-gateway"),
        pytest.param("EDGE", False, 7, None, id="edge-sidecar"),
        pytest.param("SIDECAR", True, 7, None, id="sidecar-profile"),
    ],
)
def test_edge_limits_are_for_gateways(profile: str, gateway: bool, streams: int, idle: timedelta | None) -> None:
    text = f"defaultConfig: {{connectionSettings: {{profile: {profile}, httpMaxConcurrentStreams: 7}}}}"
    proxy = mesh(text).default_config
    assert proxy is not None
    limits = effective_connections(proxy.connection_settings, gateway=gateway)
    assert (limits.http_max_concurrent_streams, limits.http_idle_timeout) == (streams, idle)


def test_no_limits_where_none_are_written() -> None:
    assert set_fields(effective_connections(None, gateway=True)) == set()


@pytest.mark.parametrize(
    ("encoding", "text", "told"),
    [
        ("TEXT", "%START_TIME% %REQ(:METHOD)% %RESPONSE_CODE%\\n", None),
        ("TEXT", "%RESPONS_CODE%", "did you mean %RESPONSE_CODE%?"),
        ("TEXT", "100%", "begins no operator"),
        ("JSON", '{"a": "%REQ(x?y):5%", "b": {"c": ["%PROTOCOL%"]}}', None),
        ("JSON", '{"a": {"b": "%REQ()%"}}', "must have an argument for %REQ%"),
        ("JSON", "%PROTOCOL%", "must be a JSON object"),
        ("JSON", '["x"]', "must be a JSON object"),
    ],
)
def test_an_access_log_format_is_one_that_envoy_takes(encoding: str, text: str, told: str | None) -> None:
    spec = f"accessLogEncoding: {encoding}\naccessLogFormat: {json.dumps(text)}"
    found = [message for field, message in faults("MeshConfig", spec, "error") if field == "spec.accessLogFormat"]
    assert len(found) == (told is not None)
    assert told is None or told in found[0]
