"""Settings of a whole mesh: MeshConfig, and MeshNetworks.

Shapes, the built-in defaults and how several sources merge; checks are in `lateen.api.check_mesh`. In what was written
`None` means not set; `effective_mesh` fills in what Istio does then. Meaning: docs/api/MeshConfig.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from lateen.api.base import FrozenMap, OneOf, Spec
from lateen.api.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    TcpKeepalive,
    ZoneAwareLoadBalancerSetting,
)
from lateen.api.mesh_proxy import DEFAULT_PROXY, EDGE_CONNECTIONS, ConnectionSettings, MeshProxyConfig
from lateen.api.providers import BUILT_IN_PROVIDERS, ExtensionProvider
from lateen.api.scalars import Duration, FreeDuration, Int32, Mapping, UInt32
from lateen.api.selectors import LabelSelector
from lateen.api.virtual_service import HTTPRetry

__all__ = [
    "DEFAULT_CIPHER_SUITES",
    "DEFAULT_INBOUND_RETRY",
    "DEFAULT_MESH",
    "DEFAULT_RETRY",
    "MeshConfig",
    "MeshNetworks",
    "effective_connections",
    "effective_mesh",
    "find_provider",
    "merge_mesh",
    "merge_proxy",
]


S = TypeVar("S", bound=Spec)


class DefaultTrafficPolicy(Spec, frozen=True, kw_only=True):
    """What holds where a DestinationRule sets no such block."""

    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None


class OutboundTrafficPolicy(Spec, frozen=True, kw_only=True):
    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS"] | None = None
    tls: ClientTLSSettings | None = None  # with ALLOW_ANY_DYNAMIC_DNS


class InboundTrafficPolicy(Spec, frozen=True, kw_only=True):
    mode: Literal["PASSTHROUGH", "LOCALHOST"] | None = None


class MatchingRule(Spec, frozen=True, kw_only=True):
    namespace_selector: LabelSelector | None = None  # labels of the ServiceEntry's namespace


Visibility = Literal["VISIBILITY_UNSPECIFIED", "NONE", "NAMESPACE", "PUBLIC"]


class VisibilityPolicy(Spec, frozen=True, kw_only=True):
    visibility: Visibility | None = None  # PUBLIC
    matching_rules: tuple[MatchingRule, ...] = ()  # all of them; none matches everything


class ServiceEntryVisibility(Spec, frozen=True, kw_only=True):
    default_visibility: Visibility | None = None  # PUBLIC
    apply_to_sidecars: bool | None = None
    policies: tuple[VisibilityPolicy, ...] = ()  # the first that matches decides


class ServiceSetting(Spec, frozen=True, kw_only=True):
    cluster_local: bool | None = None


class ServiceSettings(Spec, frozen=True, kw_only=True):
    settings: ServiceSetting | None = None
    hosts: tuple[str, ...] = ()


class ServiceScopeConfigs(Spec, frozen=True, kw_only=True):
    namespace_selector: LabelSelector | None = None
    services_selector: LabelSelector | None = None
    scope: Literal["LOCAL", "GLOBAL"] | None = None


class PathNormalization(Spec, frozen=True, kw_only=True):
    normalization: Literal["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] | None = None


class ConfigSource(Spec, frozen=True, kw_only=True):
    address: str | None = None  # xds://host, k8s://, fs:///dir
    tls_settings: ClientTLSSettings | None = None
    subscribed_resources: tuple[Literal["SERVICE_REGISTRY"], ...] = ()


class BundleEndpoint(Spec, frozen=True, kw_only=True):
    """Who answers at a `spiffe_bundle_url`. Lateen's own."""

    spiffe_id: str | None = None  # profile https_spiffe; else https_web
    pem: str | None = None  # https_spiffe: roots for the first fetch; https_web: roots in place of the machine's


class CertificateData(Spec, frozen=True, kw_only=True):
    """One more root of the mesh: exactly one of `pem` and `spiffe_bundle_url`."""

    ONE_OF: ClassVar[OneOf] = (("pem", "spiffe_bundle_url"),)

    pem: str | None = None
    spiffe_bundle_url: str | None = None
    cert_signers: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    endpoint: BundleEndpoint | None = None


class CA(Spec, frozen=True, kw_only=True):
    """An external authority that is reached with the CSR API."""

    address: str | None = None
    tls_settings: ClientTLSSettings | None = None
    request_timeout: Duration | None = None  # 10s
    istiod_side: bool | None = None  # true


class TLSConfig(Spec, frozen=True, kw_only=True):
    min_protocol_version: Literal["TLS_AUTO", "TLSV1_2", "TLSV1_3"] | None = None
    cipher_suites: tuple[str, ...] = ()
    ecdh_curves: tuple[str, ...] = ()


class Certificate(Spec, frozen=True, kw_only=True):
    """Deprecated, without effect."""

    secret_name: str | None = None
    dns_names: tuple[str, ...] = ()


class DefaultProviders(Spec, frozen=True, kw_only=True):
    """Names of providers that act where Telemetry names none."""

    tracing: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    access_logging: tuple[str, ...] | None = None


class MeshConfig(Spec, frozen=True, kw_only=True):
    """Everything a mesh can be told as a whole."""

    # proxy's ports, timeouts
    proxy_listen_port: Int32 | None = None
    proxy_inbound_listen_port: Int32 | None = None
    proxy_http_port: Int32 | None = None
    connect_timeout: Duration | None = None
    hbone_idle_timeout: FreeDuration | None = None
    protocol_detection_timeout: FreeDuration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    dns_refresh_rate: Duration | None = None
    h2_upgrade_policy: Literal["DO_NOT_UPGRADE", "UPGRADE"] | None = None
    default_http_retry_policy: HTTPRetry | None = None
    default_inbound_http_retry_policy: HTTPRetry | None = None
    default_traffic_policy: DefaultTrafficPolicy | None = None

    # traffic
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    inbound_traffic_policy: InboundTrafficPolicy | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancerSetting | None = None
    default_service_export_to: tuple[str, ...] | None = None
    default_virtual_service_export_to: tuple[str, ...] | None = None
    default_destination_rule_export_to: tuple[str, ...] | None = None
    # Lateen's own: whether only a host's own namespace (and the root namespace) may redirect others' traffic for it.
    host_ownership: Literal["namespace", "istio"] | None = None
    # Lateen's own: whether Gateways act on the gateways of their own namespace alone (and of the root namespace).
    gateway_ownership: Literal["namespace", "istio"] | None = None
    service_entry_visibility: ServiceEntryVisibility | None = None
    service_settings: tuple[ServiceSettings, ...] | None = None
    service_scope_configs: tuple[ServiceScopeConfigs, ...] | None = None
    discovery_selectors: tuple[LabelSelector, ...] | None = None
    root_namespace: str | None = None
    ingress_class: str | None = None
    ingress_service: str | None = None
    ingress_selector: str | None = None
    ingress_controller_mode: Literal["UNSPECIFIED", "OFF", "DEFAULT", "STRICT"] | None = None
    path_normalization: PathNormalization | None = None
    config_sources: tuple[ConfigSource, ...] | None = None

    # security
    enable_auto_mtls: bool | None = None
    trust_domain: str | None = None
    trust_domain_aliases: tuple[str, ...] | None = None
    ca_certificates: tuple[CertificateData, ...] | None = None
    ca: CA | None = None
    mesh_mtls: TLSConfig | None = msgspec.field(default=None, name="meshMTLS")
    tls_defaults: TLSConfig | None = None
    verify_certificate_at_client: bool | None = None  # deprecated, without effect
    certificates: tuple[Certificate, ...] | None = None  # deprecated, without effect

    # telemetry
    enable_tracing: bool | None = None
    access_log_file: str | None = None
    access_log_format: str | None = None
    access_log_encoding: Literal["TEXT", "JSON"] | None = None
    enable_envoy_access_log_service: bool | None = None
    disable_envoy_listener_log: bool | None = None
    inbound_cluster_stat_name: str | None = None
    outbound_cluster_stat_name: str | None = None
    enable_prometheus_merge: bool | None = None
    extension_providers: tuple[ExtensionProvider, ...] | None = None
    default_providers: DefaultProviders | None = None

    default_config: MeshProxyConfig | None = None


class NetworkEndpoints(Spec, frozen=True, kw_only=True):
    """Endpoints of a network: exactly one of the two."""

    ONE_OF: ClassVar[OneOf] = (("from_cidr", "from_registry"),)

    from_cidr: str | None = None
    from_registry: str | None = None


class NetworkGateway(Spec, frozen=True, kw_only=True):
    """An entry point for other networks: exactly one of `registry_service_name` and `address`."""

    ONE_OF: ClassVar[OneOf] = (("registry_service_name", "address"),)

    registry_service_name: str | None = None
    address: str | None = None
    port: UInt32
    locality: str | None = None


class Network(Spec, frozen=True, kw_only=True):
    endpoints: tuple[NetworkEndpoints, ...]
    gateways: tuple[NetworkGateway, ...]


class MeshNetworks(Spec, frozen=True, kw_only=True):
    """Which networks a mesh spans and how they are reached from each other."""

    networks: Mapping[str, Network]


# ---------------------------------------------------------------- what holds where nothing is written

DEFAULT_RETRY = HTTPRetry(
    attempts=2,
    retry_on="connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    backoff=timedelta(milliseconds=25),
)
DEFAULT_INBOUND_RETRY = HTTPRetry(attempts=2, retry_on="reset-before-request", backoff=timedelta(milliseconds=25))
DEFAULT_CIPHER_SUITES = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)

DEFAULT_MESH = MeshConfig(
    proxy_listen_port=15001,
    proxy_inbound_listen_port=15006,
    proxy_http_port=0,
    connect_timeout=timedelta(seconds=10),
    hbone_idle_timeout=timedelta(hours=1),
    protocol_detection_timeout=timedelta(0),
    dns_refresh_rate=timedelta(seconds=60),
    h2_upgrade_policy="DO_NOT_UPGRADE",
    default_http_retry_policy=DEFAULT_RETRY,
    default_inbound_http_retry_policy=DEFAULT_INBOUND_RETRY,
    outbound_traffic_policy=OutboundTrafficPolicy(mode="ALLOW_ANY"),
    inbound_traffic_policy=InboundTrafficPolicy(mode="PASSTHROUGH"),
    locality_lb_setting=LocalityLoadBalancerSetting(enabled=True),
    default_service_export_to=("*",),
    default_virtual_service_export_to=("*",),
    default_destination_rule_export_to=("*",),
    host_ownership="namespace",
    gateway_ownership="istio",
    root_namespace="istio-system",
    ingress_class="istio",
    ingress_service="istio-ingressgateway",
    ingress_selector="ingressgateway",
    ingress_controller_mode="STRICT",
    path_normalization=PathNormalization(normalization="DEFAULT"),
    enable_auto_mtls=True,
    trust_domain="cluster.local",
    trust_domain_aliases=(),
    enable_tracing=True,
    access_log_file="",
    access_log_format="",
    access_log_encoding="TEXT",
    enable_envoy_access_log_service=False,
    disable_envoy_listener_log=False,
    inbound_cluster_stat_name="",
    outbound_cluster_stat_name="",
    enable_prometheus_merge=True,
    extension_providers=BUILT_IN_PROVIDERS,
    default_providers=DefaultProviders(),
    default_config=DEFAULT_PROXY,
)


def effective_mesh(*written: MeshConfig) -> MeshConfig:
    """Return what holds: the built-in defaults with each of `written` merged over them, in order."""
    merged = DEFAULT_MESH
    for config in written:
        merged = merge_mesh(merged, config)
    return merged


def merge_mesh(base: MeshConfig, over: MeshConfig) -> MeshConfig:
    """Return `base` with what `over` sets: a field replaces the other as a whole, but for those named in docs/api."""
    changes = _set_fields(over)
    if over.default_config is not None and base.default_config is not None:
        changes["default_config"] = merge_proxy(base.default_config, over.default_config)
    if over.default_providers is not None and base.default_providers is not None:
        changes["default_providers"] = _overlay(base.default_providers, over.default_providers)
    if over.extension_providers is not None:
        changes["extension_providers"] = _merge_providers(base.extension_providers or (), over.extension_providers)
    if over.trust_domain_aliases is not None:
        changes["trust_domain_aliases"] = tuple(
            sorted({*(base.trust_domain_aliases or ()), *over.trust_domain_aliases})
        )
    return msgspec.structs.replace(base, **changes)


def merge_proxy(base: MeshProxyConfig, over: MeshProxyConfig) -> MeshProxyConfig:
    """Return `base` with what `over` sets; metadata merges by key, and five of the header settings one by one."""
    changes = _set_fields(over)
    if over.proxy_metadata is not None:
        changes["proxy_metadata"] = FrozenMap({**(base.proxy_metadata or {}), **over.proxy_metadata})
    if over.proxy_headers is not None and base.proxy_headers is not None:
        kept = {
            name: getattr(base.proxy_headers, name)
            for name in _KEPT_HEADERS
            if getattr(over.proxy_headers, name) is None
        }
        changes["proxy_headers"] = msgspec.structs.replace(over.proxy_headers, **kept)
    # One-of: naming the service in one way takes back the other.
    if over.service_cluster is not None:
        changes["tracing_service_name"] = None
    elif over.tracing_service_name is not None:
        changes["service_cluster"] = None
    return msgspec.structs.replace(base, **changes)


def effective_connections(settings: ConnectionSettings | None, *, gateway: bool) -> ConnectionSettings:
    """Return the limits that hold at a proxy: profile EDGE fills in a gateway's, and nobody else's."""
    settings = settings or ConnectionSettings()
    if not gateway or settings.profile != "EDGE":
        return settings
    return _overlay(EDGE_CONNECTIONS, settings)


def find_provider(mesh: MeshConfig, name: str) -> ExtensionProvider | None:
    """Return the provider of that name, in any case; None when there is none."""
    wanted = name.lower()
    return next((p for p in mesh.extension_providers or () if p.name.lower() == wanted), None)


# Unset in the later of two `proxyHeaders`, these keep the earlier's value; the others are lost.
_KEPT_HEADERS = ("forwarded_client_cert", "request_id", "attempt_count", "server", "envoy_debug_headers")


def _merge_providers(
    base: Iterable[ExtensionProvider], over: Iterable[ExtensionProvider]
) -> tuple[ExtensionProvider, ...]:
    merged = {provider.name: provider for provider in base}
    merged.update({provider.name: provider for provider in over})
    return tuple(merged.values())


def _overlay(base: S, over: S) -> S:
    """Return `base` with every field that `over` sets."""
    return msgspec.structs.replace(base, **_set_fields(over))


def _set_fields(value: msgspec.Struct) -> dict[str, Any]:
    return {name: field for name in value.__struct_fields__ if (field := getattr(value, name)) is not None}
