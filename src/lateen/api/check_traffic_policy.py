"""What the blocks of a traffic policy must satisfy: pools, outlier detection, balancing, TLS towards a service.

Shared by DestinationRule, Sidecar and MeshConfig. Rule ids (DR-..) are those of docs/api/DestinationRule.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_duration, check_port
from lateen.api.check_locality import check_locality_lb, check_zone_aware_lb
from lateen.api.destination_rule import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    ConsistentHashLB,
    HTTPCookie,
    LoadBalancerSettings,
    OutlierDetection,
    TrafficPolicy,
    TunnelSettings,
    WarmupConfiguration,
)
from lateen.api.names import is_dns_label, is_fqdn, is_ip, is_object_name

__all__ = [
    "check_client_tls",
    "check_connection_pool",
    "check_load_balancer",
    "check_outlier_detection",
    "check_traffic_policy",
]

MAGLEV_LIMIT: Final = 5_000_011  # Envoy's
RING_LIMIT: Final = 8 * 1024 * 1024  # Envoy refuses a larger ring
CONFIG_MAP: Final = "configmap://"


def check_traffic_policy(obj: Object, policy: TrafficPolicy, path: str) -> Iterator[Problem]:
    """Yield the faults of a `trafficPolicy`, of a rule or of a subset."""
    if policy == TrafficPolicy():  # DR-02
        yield obj.problem(path, "must have at least one block, as in loadBalancer or tls")
    yield from _check_blocks(obj, policy, path)
    if policy.tunnel is not None:
        if policy.proxy_protocol is not None:  # DR-03
            yield obj.problem(f"{path}.proxyProtocol", "must not stand beside tunnel")
        yield from _check_tunnel(obj, policy.tunnel, f"{path}.tunnel")
    numbers: set[int] = set()
    for i, entry in enumerate(policy.port_level_settings):
        place = f"{path}.portLevelSettings[{i}]"
        if entry.port is None or not entry.port.number:  # DR-09
            yield obj.problem(f"{place}.port.number", "is required")
        else:
            yield from check_port(obj, entry.port.number, f"{place}.port.number")
            if entry.port.number in numbers:
                message = f"is set already, so this entry has no effect, got {entry.port.number}"
                yield obj.problem(f"{place}.port.number", message, "warning")
            numbers.add(entry.port.number)
        blocks = (entry.load_balancer, entry.connection_pool, entry.outlier_detection, entry.tls)
        if all(block is None for block in blocks):  # DR-10
            yield obj.problem(place, "must have loadBalancer, connectionPool, outlierDetection or tls")
        yield from _check_blocks(obj, entry, place)


def _check_blocks(obj: Object, policy: object, path: str) -> Iterator[Problem]:
    """Check the four blocks that a policy and a port's settings share."""
    balancer: LoadBalancerSettings | None = getattr(policy, "load_balancer", None)
    pool: ConnectionPoolSettings | None = getattr(policy, "connection_pool", None)
    outlier: OutlierDetection | None = getattr(policy, "outlier_detection", None)
    tls: ClientTLSSettings | None = getattr(policy, "tls", None)
    if balancer is not None:
        yield from check_load_balancer(obj, balancer, f"{path}.loadBalancer")
        if outlier is None:
            yield from _check_failover_acts(obj, balancer, f"{path}.loadBalancer")
    if pool is not None:
        yield from check_connection_pool(obj, pool, f"{path}.connectionPool")
    if outlier is not None:
        yield from check_outlier_detection(obj, outlier, f"{path}.outlierDetection")
    if tls is not None:
        yield from check_client_tls(obj, tls, f"{path}.tls")


# ---------------------------------------------------------------- pool, outliers, tunnel


def check_connection_pool(obj: Object, pool: ConnectionPoolSettings, path: str) -> Iterator[Problem]:
    """DR-19..23; durations but `tcp.idleTimeout` are the shape's."""
    tcp, http = pool.tcp, pool.http
    if tcp is None and http is None:  # DR-19
        yield obj.problem(path, "must have tcp or http")
    if tcp is not None:
        yield from _not_negative(obj, [("maxConnections", tcp.max_connections)], f"{path}.tcp")  # DR-20
        if tcp.idle_timeout:  # DR-21; 0 switches it off
            yield from check_duration(obj, tcp.idle_timeout, f"{path}.tcp.idleTimeout")
    if http is None:
        return
    counts = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ]
    yield from _not_negative(obj, counts, f"{path}.http")  # DR-20
    if http.h2_upgrade_policy == "UPGRADE" and http.use_client_protocol:  # DR-22
        yield obj.problem(f"{path}.http.useClientProtocol", "must not stand beside h2UpgradePolicy UPGRADE")
    keepalive = http.http2_keep_alive
    if keepalive is not None:  # DR-23
        for name, value in (("interval", keepalive.interval), ("timeout", keepalive.timeout)):
            if value is None:
                yield obj.problem(f"{path}.http.http2KeepAlive.{name}", "is required")


def _not_negative(obj: Object, numbers: Iterable[tuple[str, int]], path: str) -> Iterator[Problem]:
    for name, number in numbers:
        if number < 0:
            yield obj.problem(f"{path}.{name}", f"must be 0 or more, got {number}")


def check_outlier_detection(obj: Object, outlier: OutlierDetection, path: str) -> Iterator[Problem]:
    """DR-14, DR-15, DR-17."""
    if outlier.consecutive_errors:
        message = "is deprecated and has no effect, use consecutive5xxErrors or consecutiveGatewayErrors"
        yield obj.problem(f"{path}.consecutiveErrors", message, "warning")
    if outlier.consecutive_local_origin_failures and not outlier.split_external_local_origin_errors:
        yield obj.problem(f"{path}.consecutiveLocalOriginFailures", "wants splitExternalLocalOriginErrors: true")
    for name, percent in (
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ):
        if not 0 <= percent <= 100:
            yield obj.problem(f"{path}.{name}", f"must be from 0 to 100, got {percent}")


def _check_tunnel(obj: Object, tunnel: TunnelSettings, path: str) -> Iterator[Problem]:
    if tunnel.protocol not in ("", "CONNECT", "POST"):  # DR-11
        yield obj.problem(f"{path}.protocol", f'must be CONNECT or POST, got "{tunnel.protocol}"')
    if not (is_fqdn(tunnel.target_host) or is_ip(tunnel.target_host)):  # DR-12
        yield obj.problem(f"{path}.targetHost", f'must be a host name or an IP, got "{tunnel.target_host}"')
    yield from check_port(obj, tunnel.target_port, f"{path}.targetPort")


# ---------------------------------------------------------------- balancing


def check_load_balancer(obj: Object, balancer: LoadBalancerSettings, path: str) -> Iterator[Problem]:
    """DR-24..41."""
    if balancer.consistent_hash is not None:
        yield from _check_hash(obj, balancer.consistent_hash, f"{path}.consistentHash")
    locality, zones = balancer.locality_lb_setting, balancer.zone_aware_lb_setting
    if locality is not None and zones is not None:  # DR-29
        yield obj.problem(f"{path}.zoneAwareLbSetting", "must not stand beside localityLbSetting")
    if locality is not None:
        yield from check_locality_lb(obj, locality, f"{path}.localityLbSetting")
    if zones is not None:
        yield from check_zone_aware_lb(obj, zones, f"{path}.zoneAwareLbSetting")
    if balancer.warmup is not None:
        yield from _check_warmup(obj, balancer.warmup, f"{path}.warmup")


def _check_failover_acts(obj: Object, balancer: LoadBalancerSettings, path: str) -> Iterator[Problem]:
    """DR-35."""
    for name, setting in (
        ("localityLbSetting", balancer.locality_lb_setting),
        ("zoneAwareLbSetting", balancer.zone_aware_lb_setting),
    ):
        if setting is not None and (setting.failover or setting.failover_priority):
            yield obj.problem(f"{path}.{name}", "fails over only with outlierDetection, which is not set", "warning")


def _check_hash(obj: Object, hashing: ConsistentHashLB, path: str) -> Iterator[Problem]:
    if hashing.http_cookie is not None:
        yield from _check_cookie(obj, hashing.http_cookie, f"{path}.httpCookie")
    if hashing.minimum_ring_size:
        place = f"{path}.minimumRingSize"
        if hashing.ring_hash is not None or hashing.maglev is not None:  # DR-27
            yield obj.problem(place, "must not stand beside ringHash or maglev")
        yield obj.problem(place, "is deprecated, use ringHash.minimumRingSize", "warning")  # DR-26
    ring = hashing.ring_hash.minimum_ring_size if hashing.ring_hash is not None else 0
    for name, size in (("minimumRingSize", hashing.minimum_ring_size), ("ringHash.minimumRingSize", ring)):
        if size > RING_LIMIT:
            yield obj.problem(f"{path}.{name}", f"must be at most {RING_LIMIT}, got {size}")
    if hashing.maglev is not None:  # DR-28
        size = hashing.maglev.table_size
        if not 0 < size < MAGLEV_LIMIT or not _is_prime(size):
            yield obj.problem(f"{path}.maglev.tableSize", f"must be a prime below {MAGLEV_LIMIT}, got {size}")


def _check_cookie(obj: Object, cookie: HTTPCookie, path: str) -> Iterator[Problem]:
    if not cookie.name:  # DR-24
        yield obj.problem(f"{path}.name", "must not be empty")
    if cookie.ttl is not None and cookie.ttl > timedelta(0):
        yield from check_duration(obj, cookie.ttl, f"{path}.ttl")
    names: set[str] = set()
    for i, attribute in enumerate(cookie.attributes):  # DR-25
        if not attribute.name:
            yield obj.problem(f"{path}.attributes[{i}].name", "is required")
        elif attribute.name in names:
            yield obj.problem(f"{path}.attributes[{i}].name", f'is given twice, got "{attribute.name}"')
        names.add(attribute.name)


def _is_prime(number: int) -> bool:
    if number < 2 or number % 2 == 0:
        return number == 2
    return all(number % divisor for divisor in range(3, int(number**0.5) + 1, 2))


def _check_warmup(obj: Object, warmup: WarmupConfiguration, path: str) -> Iterator[Problem]:
    if warmup.minimum_percent is not None and not 0 <= warmup.minimum_percent <= 100:  # DR-40
        yield obj.problem(f"{path}.minimumPercent", f"must be from 0 to 100, got {warmup.minimum_percent}")
    if warmup.aggression is not None and warmup.aggression <= 0:  # DR-41
        yield obj.problem(f"{path}.aggression", f"must be more than 0, got {warmup.aggression}")


# ---------------------------------------------------------------- TLS


def check_client_tls(obj: Object, tls: ClientTLSSettings, path: str) -> Iterator[Problem]:
    """DR-42..46."""
    yield from _check_config_map(obj, tls.credential_name, f"{path}.credentialName")
    files = {
        "clientCertificate": tls.client_certificate,
        "privateKey": tls.private_key,
        "caCertificates": tls.ca_certificates,
        "caCrl": tls.ca_crl,
    }
    if tls.insecure_skip_verify:
        pointless = {"caCertificates": tls.ca_certificates, "subjectAltNames": tls.subject_alt_names}
        if tls.mode == "SIMPLE":  # DR-43
            pointless["credentialName"] = tls.credential_name
        for name, value in pointless.items():  # DR-44
            if value and tls.mode in ("SIMPLE", "MUTUAL"):
                yield obj.problem(f"{path}.{name}", "must not stand beside insecureSkipVerify, which verifies nothing")
    if tls.mode in ("SIMPLE", "MUTUAL") and tls.credential_name:  # DR-45
        for name, value in files.items():
            if value:
                yield obj.problem(f"{path}.{name}", "must not stand beside credentialName")
    if tls.mode == "MUTUAL" and not tls.credential_name:  # DR-46
        for name in ("clientCertificate", "privateKey"):
            if not files[name]:
                yield obj.problem(f"{path}.{name}", "is required for MUTUAL without credentialName")


def _check_config_map(obj: Object, name: str, path: str) -> Iterator[Problem]:
    if not name.startswith(CONFIG_MAP):
        return
    namespace, slash, entry = name.removeprefix(CONFIG_MAP).partition("/")
    if not slash or not is_dns_label(namespace) or not is_object_name(entry):
        yield obj.problem(path, f'must be {CONFIG_MAP}namespace/name, got "{name}"')
    elif obj.key.namespace and namespace != obj.key.namespace:
        yield obj.problem(path, f'must be of the own namespace {obj.key.namespace}, got "{name}"')
