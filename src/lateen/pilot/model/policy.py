"""DestinationRules: which one applies, how several merge, and what is in force for one port or subset.

Rules: docs/api/DestinationRule.md (Istio's lookup order, merge by age, inheritance block by block).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from lateen.api.base import Object
from lateen.api.destination_rule import ConsistentHashLB, LoadBalancerSettings
from lateen.pilot.model.values import ConfigRef, HashPolicy, TcpLimits, Tunnel, UpstreamTls

__all__ = [
    "EffectivePolicy",
    "Rule",
    "age_key",
    "audience_of",
    "balancer_of",
    "clients_of",
    "config_ref",
    "effective_policy",
    "exported_to",
    "hash_policies",
    "select_rule",
    "tcp_limits",
    "tunnel_of",
    "upstream_tls",
]

# The storage version of each group: what `filter_metadata.istio.config` names, however the resource was written.
_STORAGE = {
    "EnvoyFilter": "v1alpha3",
    "ProxyConfig": "v1beta1",
    "Telemetry": "v1alpha1",
    "WasmPlugin": "v1alpha1",
    "TrafficExtension": "v1alpha1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What all DestinationRules of one host and one namespace say together."""

    ref: ConfigRef  # the oldest of them
    policy: Any  # api TrafficPolicy | None
    subsets: tuple[Any, ...]  # api Subset, first of each name

    def subset(self, name: str) -> Any:
        """Return the api Subset of that name, None when there is none."""
        return next((entry for entry in self.subsets if entry.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectivePolicy:
    """The blocks in force for one cluster; None where nobody said anything."""

    connection_pool: Any = None
    load_balancer: Any = None
    outlier_detection: Any = None
    tls: Any = None
    proxy_protocol: Any = None
    tunnel: Any = None
    retry_budget: Any = None


def age_key(obj: Object) -> tuple[str, str, str]:
    """Return the order in which resources compete: creation time, then name, then namespace."""
    return (obj.created, obj.key.name, obj.key.namespace)


def config_ref(obj: Object) -> ConfigRef:
    """Return how Envoy's metadata names `obj`."""
    group = obj.api_version.partition("/")[0]
    return ConfigRef(group, _STORAGE.get(obj.key.kind, "v1"), obj.key.kind, obj.key.namespace, obj.key.name)


def exported_to(export_to: Iterable[str], owner: str, viewer: str) -> bool:
    """Tell whether a resource of namespace `owner` is visible in `viewer`. An empty list is everywhere."""
    entries = tuple(export_to)
    if not entries:
        return True
    return any(entry == "*" or entry == viewer or (entry == "." and owner == viewer) for entry in entries)


def select_rule(rules: Iterable[Object], labels: Mapping[str, str]) -> Rule | None:
    """Return what the DestinationRules of one host and one namespace say to a client, None when nothing.

    Rules with the same audience (`exportTo`, `workloadSelector`) are one rule in several pieces and are merged; those
    of another audience never are. Of all audiences the first counts: with a selector that picks the client before
    those without, then the older. `labels` are the client's; none: what no selector picks, as what arrives at a server.
    """
    groups: dict[tuple[Any, Any], list[Object]] = {}
    for rule in sorted(rules, key=age_key):
        if all(labels.get(key) == value for key, value in clients_of(rule)):
            groups.setdefault(audience_of(rule), []).append(rule)
    chosen = min(groups, key=lambda group: not group[0], default=None)  # the first of equals, so the oldest
    return _merge_rules(groups[chosen]) if chosen is not None else None


def audience_of(rule: Object) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    """Return for whom a DestinationRule is: the clients it selects, () for all, and namespaces it is exported to."""
    namespaces = (rule.key.namespace if entry == "." else entry for entry in rule.spec.export_to or ("*",))
    return clients_of(rule), frozenset(namespaces)


def clients_of(rule: Object) -> tuple[tuple[str, str], ...]:
    """Return the labels by which a DestinationRule picks clients of its namespace, () when it is for all clients."""
    selector = rule.spec.workload_selector
    return tuple(sorted((selector.match_labels or {}).items())) if selector is not None else ()


def _merge_rules(ordered: list[Object]) -> Rule:
    """Merge rules, the oldest first: the first `trafficPolicy` stands, and of each subset's name the first."""
    subsets: dict[str, Any] = {}
    for rule in ordered:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.spec.traffic_policy for rule in ordered if rule.spec.traffic_policy is not None), None)
    return Rule(ref=config_ref(ordered[0]), policy=policy, subsets=tuple(subsets.values()))


def effective_policy(rule: Rule | None, *, port: int, subset: str, mesh_default: Any = None) -> EffectivePolicy:
    """Return what is in force for one port of a service, or of one of its subsets.

    The service's level first: what the rule says of the port replaces all that it says of the service, unset blocks and
    `proxyProtocol` and `retryBudget` included. The mesh's defaults fill the blocks that this leaves open. A subset's
    policy overlays the result block by block; what it says of the port replaces the four blocks, unset ones included.
    `tunnel` is of the level that was asked for alone.
    """
    policy = rule.policy if rule is not None else None
    at_port = _at_port(policy, port)
    base = policy if at_port is None else at_port
    pool = getattr(base, "connection_pool", None)
    outliers = getattr(base, "outlier_detection", None)
    effective = EffectivePolicy(
        connection_pool=pool or getattr(mesh_default, "connection_pool", None),
        load_balancer=getattr(base, "load_balancer", None),
        outlier_detection=outliers or getattr(mesh_default, "outlier_detection", None),
        tls=getattr(base, "tls", None),
        proxy_protocol=policy.proxy_protocol if policy is not None and at_port is None else None,
        retry_budget=policy.retry_budget if policy is not None and at_port is None else None,
        tunnel=policy.tunnel if policy is not None else None,
    )
    return _of_subset(effective, rule, subset, port) if subset else effective


def _of_subset(below: EffectivePolicy, rule: Rule | None, subset: str, port: int) -> EffectivePolicy:
    chosen = rule.subset(subset) if rule is not None else None
    policy = chosen.traffic_policy if chosen is not None else None
    if policy is None:
        return replace(below, tunnel=None)
    blocks = _at_port(policy, port)
    return EffectivePolicy(
        connection_pool=policy.connection_pool or below.connection_pool if blocks is None else blocks.connection_pool,
        load_balancer=policy.load_balancer or below.load_balancer if blocks is None else blocks.load_balancer,
        outlier_detection=policy.outlier_detection or below.outlier_detection
        if blocks is None
        else blocks.outlier_detection,
        tls=policy.tls or below.tls if blocks is None else blocks.tls,
        proxy_protocol=policy.proxy_protocol or below.proxy_protocol,
        retry_budget=policy.retry_budget or below.retry_budget,
        tunnel=policy.tunnel,
    )


def _at_port(policy: Any, port: int) -> Any:
    """Return what a `trafficPolicy` says of one port, None when nothing."""
    entries = policy.port_level_settings if policy is not None else ()
    return next((entry for entry in entries if entry.port is not None and entry.port.number == port), None)


def tcp_limits(rule: Rule | None, policy: EffectivePolicy) -> TcpLimits:
    """Return how long TCP connections may last: as the policy in force says, else as the service's level does.

    Istio reads the service's level alone, so a time there counts also where a port or a subset has a pool without one.
    """
    whole = rule.policy if rule is not None else None
    pools = (policy.connection_pool, whole.connection_pool if whole is not None else None)
    settings = [pool.tcp for pool in pools if pool is not None and pool.tcp is not None]
    return TcpLimits(
        idle_timeout=next((tcp.idle_timeout for tcp in settings if tcp.idle_timeout is not None), None),
        max_duration=next((tcp.max_connection_duration for tcp in settings if tcp.max_connection_duration), None),
    )


def tunnel_of(policy: EffectivePolicy) -> Tunnel | None:
    """Return the forward proxy's errand, None when connections go to the service itself."""
    tunnel = policy.tunnel
    if tunnel is None:
        return None
    return Tunnel(host=tunnel.target_host, port=tunnel.target_port, post=tunnel.protocol == "POST")


def upstream_tls(policy: EffectivePolicy) -> UpstreamTls | None:
    """Return what a DestinationRule says about TLS to the service, None when it says nothing."""
    return None if policy.tls is None else client_tls(policy.tls)


def client_tls(tls: Any) -> UpstreamTls:
    """Return ClientTLSSettings of the API as what a cluster does."""
    return UpstreamTls(
        mode=str(getattr(tls.mode, "value", tls.mode) or "DISABLE"),
        sni=tls.sni or "",
        subject_alt_names=tuple(sorted(tls.subject_alt_names)),
        ca_certificates=tls.ca_certificates or "",
        client_certificate=tls.client_certificate or "",
        private_key=tls.private_key or "",
        credential_name=tls.credential_name or "",
        insecure_skip_verify=bool(tls.insecure_skip_verify),
        ca_crl=tls.ca_crl or "",
    )


def balancer_of(policy: EffectivePolicy, *, affinity: bool) -> Any:
    """Return what picks endpoints, as an api LoadBalancerSettings.

    `affinity`: the Service wants its clients to stay with one endpoint (`sessionAffinity: ClientIP`); that acts where
    no rule says how endpoints are picked.
    """
    balancer = policy.load_balancer or LoadBalancerSettings()
    decided = balancer.consistent_hash is not None or (balancer.simple or "UNSPECIFIED") != "UNSPECIFIED"
    if not affinity or decided:
        return policy.load_balancer
    return msgspec.structs.replace(balancer, simple=None, consistent_hash=ConsistentHashLB(use_source_ip=True))


def hash_policies(policy: EffectivePolicy, *, affinity: bool = False) -> tuple[HashPolicy, ...]:
    """Return the consistent-hash keys that routes to this destination carry."""
    balancer = balancer_of(policy, affinity=affinity)
    hashing = balancer.consistent_hash if balancer is not None else None
    if hashing is None:
        return ()
    if hashing.http_header_name:
        return (HashPolicy(kind="header", name=hashing.http_header_name),)
    if hashing.http_cookie is not None:
        cookie = hashing.http_cookie
        attributes = tuple((entry.name, entry.value or "") for entry in getattr(cookie, "attributes", None) or ())
        return (
            HashPolicy(kind="cookie", name=cookie.name, ttl=cookie.ttl, path=cookie.path or "", attributes=attributes),
        )
    if hashing.use_source_ip:
        return (HashPolicy(kind="source-ip"),)
    if hashing.http_query_parameter_name:
        return (HashPolicy(kind="query", name=hashing.http_query_parameter_name),)
    return ()
