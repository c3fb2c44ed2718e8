"""The filters of one listener's policies.

In:  one `Authorization`.
Out: `Decisions`, its filters in the order in which they decide: authorizers, AUDIT, DENY, ALLOW.
Each action is a filter of its own; an action that no policy has, has none. Policies that are only tried out are the
filter's shadow rules. Rules: docs/api/AuthorizationPolicy.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac

from lateen.pilot.model.values_authz import Authorization, PolicyInput
from lateen.pilot.translate.authz.attributes import Place
from lateen.pilot.translate.authz.leaning import leaning_of
from lateen.pilot.translate.authz.rules import NEVER, build_rule
from lateen.pilot.translate.pack import pack

__all__ = ["Decisions", "build_decisions", "build_rules", "http_rbac", "network_rbac", "rule_name"]

_ACTIONS: Final = (("AUDIT", RBAC.LOG), ("DENY", RBAC.DENY), ("ALLOW", RBAC.ALLOW))  # in order
HTTP_RBAC: Final = "envoy.filters.http.rbac"
NETWORK_RBAC: Final = "envoy.filters.network.rbac"
STAT_PREFIX: Final = "network"  # Istio's `tcp.` would be taken for the name of a TCP proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Filters of HTTP chains and of others; `asks` come before tokens are read, `rules` after."""

    http_asks: tuple[HttpFilter, ...] = ()
    http_rules: tuple[HttpFilter, ...] = ()
    tcp_asks: tuple[Filter, ...] = ()
    tcp_rules: tuple[Filter, ...] = ()


def build_decisions(authorization: Authorization) -> Decisions:
    """Return the filters of one listener's policies, none where there are none. Same input, same bytes."""
    if not authorization.policies:
        return Decisions()
    return Decisions(
        http_rules=tuple(http_rbac(**fields) for fields in _filters(authorization, tcp=False)),
        tcp_rules=tuple(network_rbac(**fields) for fields in _filters(authorization, tcp=True)),
    )


def http_rbac(**fields: Any) -> HttpFilter:
    """Return the HTTP filter with these rules and shadow rules."""
    return HttpFilter(name=HTTP_RBAC, typed_config=pack(HttpRbac(**fields)))


def network_rbac(**fields: Any) -> Filter:
    """Return the network filter with these rules and shadow rules."""
    return Filter(name=NETWORK_RBAC, typed_config=pack(NetworkRbac(stat_prefix=STAT_PREFIX, **fields)))


def _filters(authorization: Authorization, *, tcp: bool) -> Iterator[dict[str, Any]]:
    for action, meaning in _ACTIONS:
        policies = [policy for policy in authorization.policies if policy.action == action]
        enforced = [policy for policy in policies if not policy.dry_run]
        tried = [policy for policy in policies if policy.dry_run]
        fields: dict[str, Any] = {}
        if enforced:
            fields["rules"] = build_rules(enforced, authorization.trust_domains, meaning, tcp=tcp)
        if tried:
            fields["shadow_rules"] = build_rules(tried, authorization.trust_domains, meaning, tcp=tcp)
            fields["shadow_rules_stat_prefix"] = f"istio_dry_run_{action.lower()}_"
        if fields:
            yield fields


def build_rules(
    policies: Iterable[PolicyInput],
    trust_domains: Sequence[str],
    action: Any,
    *,
    tcp: bool,
    prefix: str = "",
) -> RBAC:
    """Return the rules of policies under their names, `prefix` before each; a policy without rules never matches."""
    found = {}
    for policy in policies:
        place = Place(namespace=policy.namespace, trust_domains=tuple(trust_domains), leaning=leaning_of(policy.action))
        if not policy.rules:
            found[prefix + rule_name(policy, 0)] = NEVER
        for index, rule in enumerate(policy.rules):
            found[prefix + rule_name(policy, index)] = build_rule(rule, place, tcp=tcp)
    return RBAC(action=action, policies=found)


def rule_name(policy: PolicyInput, index: int) -> str:
    """Return the name by which answers, logs and statistics tell one rule."""
    return f"ns[{policy.namespace}]-policy[{policy.name}]-rule[{index}]"
