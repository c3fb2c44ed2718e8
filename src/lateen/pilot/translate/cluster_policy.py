"""Circuit breakers, balancing, outlier detection and connection options of a cluster.

In:  the effective parts of a DestinationRule's `trafficPolicy` (api structs, `None` where nobody says anything).
Out: the sub-messages of `envoy.config.cluster.v3.Cluster`, `None` for those to be left out.
Meaning and defaults: Istio `DestinationRule`, docs/api/translation.md "Clusters". Whole numbers of 0 mean "not set".
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.common.matcher.v3.matcher_pb2 import HttpHeadersMatch, MatchPredicate
from envoy.config.core.v3.address_pb2 import TcpKeepalive
from envoy.config.core.v3.base_pb2 import RuntimeDouble
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as CommonHttpOptions
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from lateen.pilot.model.values import ZoneAware
from lateen.pilot.translate.pack import length_delimited
from lateen.pilot.translate.parts import duration, uint32

MOST_KEEPALIVE_SECONDS: Final = 32_767  # Linux, MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL
MOST_KEEPALIVE_PROBES: Final = 127  # Linux, MAX_TCP_KEEPCNT

__all__ = [
    "LOCALITY_WEIGHTED",
    "NO_LIMITS",
    "PANIC_OFF",
    "circuit_breakers",
    "common_http_options",
    "common_lb",
    "connection_options",
    "error_matcher",
    "is_passthrough",
    "lb_config",
    "lb_policy",
    "outlier_detection",
]

UNLIMITED: Final = 2**32 - 1  # Istio's default of every threshold; left out, Envoy would stop at 1024 (retries: 3)
DEFAULT_RING_SIZE: Final = 1024
BUDGET_INTERVAL: Final = 3  # number of the field in envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget
DEFAULT_AGGRESSION: Final = 1.0
DEFAULT_MIN_WEIGHT_PERCENT: Final = 10.0

NO_LIMITS: Final = CircuitBreakers(
    thresholds=[
        CircuitBreakers.Thresholds(
            max_connections=uint32(UNLIMITED),
            max_pending_requests=uint32(UNLIMITED),
            max_requests=uint32(UNLIMITED),
            max_retries=uint32(UNLIMITED),
        )
    ]
)
PANIC_OFF: Final = Cluster.CommonLbConfig(healthy_panic_threshold=Percent())
LOCALITY_WEIGHTED: Final = Cluster.CommonLbConfig(
    healthy_panic_threshold=Percent(),
    locality_weighted_lb_config=Cluster.CommonLbConfig.LocalityWeightedLbConfig(),
)

_SIMPLE: Final = {
    "LEAST_CONN": Cluster.LEAST_REQUEST,
    "LEAST_REQUEST": Cluster.LEAST_REQUEST,
    "RANDOM": Cluster.RANDOM,
    "ROUND_ROBIN": Cluster.ROUND_ROBIN,
    "PASSTHROUGH": Cluster.CLUSTER_PROVIDED,
}


def circuit_breakers(pool: Any, retry_budget: Any) -> CircuitBreakers:
    """Return the limits; every one is written out."""
    if pool is None and retry_budget is None:
        return NO_LIMITS
    tcp, http = (pool.tcp, pool.http) if pool else (None, None)
    return CircuitBreakers(
        thresholds=[
            CircuitBreakers.Thresholds(
                max_connections=uint32((tcp and tcp.max_connections) or UNLIMITED),
                max_pending_requests=uint32((http and http.http1_max_pending_requests) or UNLIMITED),
                max_requests=uint32((http and http.http2_max_requests) or UNLIMITED),
                max_retries=uint32((http and http.max_retries) or UNLIMITED),
                retry_budget=_retry_budget(retry_budget),
            )
        ]
    )


def _retry_budget(budget: Any) -> CircuitBreakers.Thresholds.RetryBudget | None:
    if budget is None:
        return None
    made = CircuitBreakers.Thresholds.RetryBudget(
        budget_percent=Percent(value=20 if budget.percent is None else budget.percent),
        min_retry_concurrency=uint32(budget.min_retry_concurrency or 3),
    )
    if budget.budget_interval:
        # Envoy 1.40 knows the field, the descriptors that come with `xds-protos` do not: it travels as an unknown one.
        made.MergeFromString(length_delimited(BUDGET_INTERVAL, duration(budget.budget_interval).SerializeToString()))
    return made


def is_passthrough(balancer: Any) -> bool:
    """True when the rule wants connections to go where the client dialled."""
    return balancer is not None and balancer.simple == "PASSTHROUGH"


def lb_policy(balancer: Any, *, default: int = Cluster.LEAST_REQUEST) -> int:
    """Return Envoy's `Cluster.LbPolicy`; `default` where the rule leaves it open."""
    if balancer is None:
        return default
    if balancer.consistent_hash is not None:
        return int(Cluster.MAGLEV if balancer.consistent_hash.maglev is not None else Cluster.RING_HASH)
    return int(_SIMPLE.get(balancer.simple or "UNSPECIFIED", default))


def lb_config(balancer: Any) -> dict[str, Any]:
    """Return the one `Cluster` field that details the policy, by its name; {} for none."""
    if balancer is None:
        return {}
    if (hashing := balancer.consistent_hash) is not None:
        if hashing.maglev is not None:
            size = hashing.maglev.table_size
            return {"maglev_lb_config": Cluster.MaglevLbConfig(table_size=UInt64Value(value=size) if size else None)}
        ring = (hashing.ring_hash and hashing.ring_hash.minimum_ring_size) or hashing.minimum_ring_size
        return {
            "ring_hash_lb_config": Cluster.RingHashLbConfig(
                minimum_ring_size=UInt64Value(value=ring or DEFAULT_RING_SIZE)
            )
        }
    slow_start = _slow_start(balancer)
    if slow_start is None:
        return {}
    match lb_policy(balancer):
        case Cluster.ROUND_ROBIN:
            return {"round_robin_lb_config": Cluster.RoundRobinLbConfig(slow_start_config=slow_start)}
        case Cluster.LEAST_REQUEST:
            return {"least_request_lb_config": Cluster.LeastRequestLbConfig(slow_start_config=slow_start)}
        case _:
            return {}


def _slow_start(balancer: Any) -> Cluster.SlowStartConfig | None:
    warmup = balancer.warmup
    window = warmup.duration if warmup is not None else balancer.warmup_duration_secs
    if window is None:
        return None
    aggression = warmup.aggression if warmup is not None else None
    minimum = warmup.minimum_percent if warmup is not None else None
    return Cluster.SlowStartConfig(
        slow_start_window=duration(window),
        aggression=RuntimeDouble(
            default_value=DEFAULT_AGGRESSION if aggression is None else aggression,
            runtime_key="lateen.warmup.aggression",  # Envoy refuses an empty key; nothing sets this one
        ),
        min_weight_percent=Percent(value=DEFAULT_MIN_WEIGHT_PERCENT if minimum is None else minimum),
    )


def common_lb(outlier: Any, *, weighted: bool, zones: ZoneAware | None) -> Cluster.CommonLbConfig:
    """Return the panic threshold and, where localities are weighted or zones count, that.

    Panic routing (using unhealthy endpoints when too many are) is off unless asked for: unhealthy endpoints are sent
    to proxies so that they can show them, not so that they use them.
    """
    panic = (outlier is not None and outlier.min_health_percent) or 0
    if not panic and zones is None:
        return LOCALITY_WEIGHTED if weighted else PANIC_OFF
    return Cluster.CommonLbConfig(
        healthy_panic_threshold=Percent(value=panic),
        locality_weighted_lb_config=Cluster.CommonLbConfig.LocalityWeightedLbConfig() if weighted else None,
        zone_aware_lb_config=_zone_aware(zones) if zones is not None else None,
    )


def _zone_aware(zones: ZoneAware) -> Cluster.CommonLbConfig.ZoneAwareLbConfig:
    if not zones.enabled:
        return Cluster.CommonLbConfig.ZoneAwareLbConfig(routing_enabled=Percent(value=0))
    return Cluster.CommonLbConfig.ZoneAwareLbConfig(
        routing_enabled=Percent(value=100), min_cluster_size=UInt64Value(value=zones.min_cluster_size)
    )


def outlier_detection(outlier: Any) -> OutlierDetection | None:
    """Return passive health checking. Ejection by success rate is always off, as in Istio."""
    if outlier is None:
        return None
    split = bool(outlier.split_external_local_origin_errors)
    return OutlierDetection(
        enforcing_success_rate=uint32(0),
        interval=None if outlier.interval is None else duration(outlier.interval),
        base_ejection_time=None if outlier.base_ejection_time is None else duration(outlier.base_ejection_time),
        max_ejection_percent=uint32(outlier.max_ejection_percent) if outlier.max_ejection_percent else None,
        split_external_local_origin_errors=split,
        enforcing_local_origin_success_rate=uint32(0) if split else None,
        **_consecutive("consecutive_5xx", outlier.consecutive5xx_errors),
        **_consecutive("consecutive_gateway_failure", outlier.consecutive_gateway_errors),
        **_consecutive(
            "consecutive_local_origin_failure", outlier.consecutive_local_origin_failures if split else None
        ),
    )


def _consecutive(field: str, count: int | None) -> dict[str, Any]:
    # 0 turns a detector off; not set leaves Envoy's own default (5xx: 5 and enforced, the others: not enforced).
    if count is None:
        return {}
    return {
        **({field: uint32(count)} if count else {}),
        f"enforcing_{field}": uint32(100 if count else 0),
    }


def error_matcher(outlier: Any) -> MatchPredicate | None:
    """Return which statuses count as errors; `None` for the usual 5xx."""
    codes = outlier.outlier_detection_http_error_codes if outlier is not None else None
    if not codes:
        return None
    rules = [
        MatchPredicate(
            http_response_headers_match=HttpHeadersMatch(
                headers=[HeaderMatcher(name=":status", string_match=StringMatcher(exact=str(code)))]
            )
        )
        for code in codes
    ]
    return rules[0] if len(rules) == 1 else MatchPredicate(or_match=MatchPredicate.MatchSet(rules=rules))


def connection_options(pool: Any, mesh: Any = None) -> UpstreamConnectionOptions | None:
    """Return TCP keep-alive towards the endpoints: each of its fields as the pool says it, else as the mesh does."""
    own = pool.tcp.tcp_keepalive if pool is not None and pool.tcp is not None else None
    said = [keepalive for keepalive in (own, mesh) if keepalive is not None]
    if not said:
        return None
    probes, time, interval = (
        next((value for keepalive in said if (value := getattr(keepalive, name))), None)
        for name in ("probes", "time", "interval")
    )
    return UpstreamConnectionOptions(
        tcp_keepalive=TcpKeepalive(
            keepalive_probes=uint32(min(probes, MOST_KEEPALIVE_PROBES)) if probes else None,
            keepalive_time=_whole_seconds(time),
            keepalive_interval=_whole_seconds(interval),
        )
    )


def _whole_seconds(value: timedelta | None) -> UInt32Value | None:
    # The kernel counts in seconds, and refuses 0 and what is beyond its bounds: the connection would fail.
    return uint32(min(max(1, int(value.total_seconds())), MOST_KEEPALIVE_SECONDS)) if value else None


def common_http_options(pool: Any) -> CommonHttpOptions | None:
    """Return limits of HTTP connections, of either version; `None` when nothing limits them."""
    if pool is None:
        return None
    tcp, http = pool.tcp, pool.http
    idle = (http and http.idle_timeout) or (tcp and tcp.idle_timeout)
    lifetime = tcp and tcp.max_connection_duration
    requests = http and http.max_requests_per_connection
    if idle is None and not lifetime and not requests:
        return None
    return CommonHttpOptions(
        idle_timeout=None if idle is None else duration(idle),
        max_connection_duration=duration(lifetime) if lifetime else None,
        max_requests_per_connection=uint32(requests) if requests else None,
    )
