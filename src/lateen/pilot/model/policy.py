"""DestinationRules: which one applies, how several merge, and what is in force for one port or subset.

Rules: docs/api/DestinationRule.md (Istio's lookup order, merge by age, inheritance block by block).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lateen.api.base import Object
from lateen.pilot.model.values import ConfigRef, HashPolicy, UpstreamTls

__all__ = [
    "EffectivePolicy",
    "Rule",
    "age_key",
    "config_ref",
    "effective_policy",
    "exported_to",
    "hash_policies",
    "merge_rules",
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


def merge_rules(rules: Iterable[Object]) -> Rule | None:
    """Merge the DestinationRules of one host in one namespace: oldest first, the first word on each thing stands."""
    ordered = sorted(rules, key=age_key)
    if not ordered:
        return None
    subsets: dict[str, Any] = {}
    for rule in ordered:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.spec.traffic_policy for rule in ordered if rule.spec.traffic_policy is not None), None)
    return Rule(ref=config_ref(ordered[0]), policy=policy, subsets=tuple(subsets.values()))


def effective_policy(rule: Rule | None, *, port: int, subset: str, mesh_default: Any = None) -> EffectivePolicy:
    """Return what is in force for one port of a service, or of one of its subsets.

    A port's settings replace the four blocks of the level they stand in, unset ones included. A subset's policy
    overlays the service's block by block, so that a subset with only `tls` keeps the service's outlier detection.
    """
    effective = EffectivePolicy()
    if rule is not None:
        effective = _overlay(effective, rule.policy, port)
        chosen = next((entry for entry in rule.subsets if entry.name == subset), None) if subset else None
        if chosen is not None:
            effective = _overlay(effective, chosen.traffic_policy, port)
    if mesh_default is not None:
        effective = EffectivePolicy(
            connection_pool=effective.connection_pool or mesh_default.connection_pool,
            load_balancer=effective.load_balancer,
            outlier_detection=effective.outlier_detection or mesh_default.outlier_detection,
            tls=effective.tls,
            proxy_protocol=effective.proxy_protocol,
            tunnel=effective.tunnel,
            retry_budget=effective.retry_budget,
        )
    return effective


def _overlay(below: EffectivePolicy, policy: Any, port: int) -> EffectivePolicy:
    if policy is None:
        return below
    at_port = next((entry for entry in policy.port_level_settings if entry.port and entry.port.number == port), None)
    if at_port is not None:
        blocks = (at_port.connection_pool, at_port.load_balancer, at_port.outlier_detection, at_port.tls)
    else:
        blocks = (
            policy.connection_pool or below.connection_pool,
            policy.load_balancer or below.load_balancer,
            policy.outlier_detection or below.outlier_detection,
            policy.tls or below.tls,
        )
    return EffectivePolicy(
        connection_pool=blocks[0],
        load_balancer=blocks[1],
        outlier_detection=blocks[2],
        tls=blocks[3],
        proxy_protocol=policy.proxy_protocol or below.proxy_protocol,
        tunnel=policy.tunnel or below.tunnel,
        retry_budget=policy.retry_budget or below.retry_budget,
    )


def upstream_tls(policy: EffectivePolicy) -> UpstreamTls | None:
    """Return what a DestinationRule says about TLS to the service, None when it says nothing."""
    tls = policy.tls
    if tls is None:
        return None
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


def hash_policies(policy: EffectivePolicy) -> tuple[HashPolicy, ...]:
    """Return the consistent-hash keys that routes to this destination carry."""
    balancer = policy.load_balancer
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
