"""networking.istio.io DestinationRule, as written: what happens to traffic once its destination is known.

Shapes only; the rules beyond them are in `lateen.api.check_destination_rule`. Meaning and defaults:
docs/api/DestinationRule.md.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Double, Duration, FreeDuration, Int32, Mapping, UInt32, UInt64
from lateen.api.selectors import WorkloadSelector
from lateen.api.virtual_service import PortSelector

__all__ = [
    "ClientTLSSettings",
    "ConnectionPoolSettings",
    "ConsistentHashLB",
    "CookieAttribute",
    "DestinationRule",
    "Distribute",
    "Failover",
    "HTTPCookie",
    "HTTPSettings",
    "Http2KeepAlive",
    "LoadBalancerSettings",
    "LocalityLoadBalancerSetting",
    "MagLev",
    "OutlierDetection",
    "PortTrafficPolicy",
    "ProxyProtocol",
    "RetryBudget",
    "RingHash",
    "Subset",
    "TCPSettings",
    "TcpKeepalive",
    "TrafficPolicy",
    "TunnelSettings",
    "WarmupConfiguration",
    "ZoneAwareLoadBalancerSetting",
]

PORT_SETTINGS_LIMIT = 4096  # rule DR-47

PercentDouble = Annotated[float, Meta(ge=0, le=100)]


class RingHash(Spec, frozen=True, kw_only=True):
    minimum_ring_size: UInt64 = 0  # 0: 1024


class MagLev(Spec, frozen=True, kw_only=True):
    table_size: UInt64 = 0


class CookieAttribute(Spec, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""


class HTTPCookie(Spec, frozen=True, kw_only=True):
    name: str
    path: str = ""
    ttl: FreeDuration | None = None  # None: the cookie is not generated; 0: for the session
    attributes: tuple[CookieAttribute, ...] = ()


class ConsistentHashLB(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (
        ("http_header_name", "http_cookie", "use_source_ip", "http_query_parameter_name"),
        ("ring_hash", "maglev"),
    )

    http_header_name: str = ""
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool = False
    http_query_parameter_name: str = ""
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: UInt64 = 0  # deprecated


class Distribute(Spec, frozen=True, kw_only=True):
    from_: str = msgspec.field(default="", name="from")  # locality, `region/zone/*`
    to: Mapping[str, UInt32] = EMPTY  # locality -> weight, together 100


class Failover(Spec, frozen=True, kw_only=True):
    from_: str = msgspec.field(default="", name="from")  # region
    to: str = ""


class LocalityLoadBalancerSetting(Spec, frozen=True, kw_only=True):
    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None


class ZoneAwareLoadBalancerSetting(Spec, frozen=True, kw_only=True):
    enabled: bool | None = None  # None: on
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: Annotated[int, Meta(ge=1, le=2**32 - 1)] | None = None  # None: 6


class WarmupConfiguration(Spec, frozen=True, kw_only=True):
    duration: Duration
    minimum_percent: Double | None = None  # None: 10
    aggression: Double | None = None  # None: 1.0


class LoadBalancerSettings(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("simple", "consistent_hash"),)

    simple: Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"] | None = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancerSetting | None = None
    warmup: WarmupConfiguration | None = None
    warmup_duration_secs: Duration | None = None  # deprecated; `warmup` wins


class TcpKeepalive(Spec, frozen=True, kw_only=True):
    probes: UInt32 = 0
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Spec, frozen=True, kw_only=True):
    max_connections: Int32 = 0  # 0 here and below: not set
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: FreeDuration | None = None  # 0: off


class Http2KeepAlive(Spec, frozen=True, kw_only=True):
    interval: Duration | None = None
    timeout: Duration | None = None


class HTTPSettings(Spec, frozen=True, kw_only=True):
    http1_max_pending_requests: Int32 = 0
    http2_max_requests: Int32 = 0
    max_requests_per_connection: Int32 = 0
    max_retries: Int32 = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    use_client_protocol: bool = False
    max_concurrent_streams: Int32 = 0
    http2_keep_alive: Http2KeepAlive | None = None


class ConnectionPoolSettings(Spec, frozen=True, kw_only=True):
    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class OutlierDetection(Spec, frozen=True, kw_only=True):
    """Passive health checks. Numbers that are `None` differ from 0, which turns a detector off."""

    consecutive5xx_errors: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: UInt32 | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Int32 = 0  # 0: 10
    min_health_percent: Int32 = 0
    outlier_detection_http_error_codes: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = ()
    consecutive_errors: Int32 = 0  # deprecated, without effect


class ClientTLSSettings(Spec, frozen=True, kw_only=True):
    """TLS towards a service. The block without a mode means plain text, and turns automatic mutual TLS off."""

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""  # a path
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool | None = None


class PortTrafficPolicy(Spec, frozen=True, kw_only=True):
    """Replaces, for one port, all four blocks of the level it stands in."""

    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TunnelSettings(Spec, frozen=True, kw_only=True):
    protocol: str = ""  # CONNECT (also when empty) or POST
    target_host: str
    target_port: UInt32


class ProxyProtocol(Spec, frozen=True, kw_only=True):
    version: Literal["V1", "V2"] = "V1"


class RetryBudget(Spec, frozen=True, kw_only=True):
    percent: PercentDouble | None = None  # None: 20
    min_retry_concurrency: UInt32 | None = None  # None: 3
    budget_interval: FreeDuration | None = None


class TrafficPolicy(Spec, frozen=True, kw_only=True):
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: Annotated[tuple[PortTrafficPolicy, ...], Meta(max_length=PORT_SETTINGS_LIMIT)] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Spec, frozen=True, kw_only=True):
    name: str
    labels: Mapping[str, str] = EMPTY  # none: all endpoints
    traffic_policy: TrafficPolicy | None = None


class DestinationRule(Spec, frozen=True, kw_only=True):
    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: WorkloadSelector | None = None  # of clients, in the rule's namespace
