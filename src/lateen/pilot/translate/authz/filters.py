"""Envoy's RBAC filters, for HTTP chains and others, and the rules in them.

In:  policies of one action. Out: rules under their names, and filters with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac

from lateen.pilot.model.values_authz import PolicyInput
from lateen.pilot.translate.authz.attributes import Place
from lateen.pilot.translate.authz.leaning import leaning_of
from lateen.pilot.translate.authz.rules import NEVER, build_rule
from lateen.pilot.translate.authz.vouching import Vouching
from lateen.pilot.translate.pack import pack

__all__ = ["HTTP_RBAC", "NETWORK_RBAC", "STAT_PREFIX", "build_rules", "http_rbac", "network_rbac"]

HTTP_RBAC: Final = "envoy.filters.http.rbac"
NETWORK_RBAC: Final = "envoy.filters.network.rbac"
STAT_PREFIX: Final = "network"  # Istio's `tcp.` would be taken for the name of a TCP proxy


def http_rbac(**fields: Any) -> HttpFilter:
    """Return the HTTP filter with these rules and shadow rules."""
    return HttpFilter(name=HTTP_RBAC, typed_config=pack(HttpRbac(**fields)))


def network_rbac(**fields: Any) -> Filter:
    """Return the network filter with these rules and shadow rules."""
    return Filter(name=NETWORK_RBAC, typed_config=pack(NetworkRbac(stat_prefix=STAT_PREFIX, **fields)))


def build_rules(
    policies: Iterable[PolicyInput],
    trust_domains: Sequence[str],
    action: Any,
    *,
    tcp: bool,
    vouching: Vouching = Vouching.MESH,
    prefix: str = "",
    suffix: str = "",
) -> RBAC:
    """Return the rules of policies under their names, between `prefix` and `suffix`.

    A policy without rules has one that never matches.
    """
    found = {}
    for policy in policies:
        place = Place(
            namespace=policy.namespace,
            trust_domains=tuple(trust_domains),
            vouching=vouching,
            leaning=leaning_of(policy.action),
        )
        if not policy.rules:
            found[f"{prefix}{_rule_name(policy, 0)}{suffix}"] = NEVER
        for index, rule in enumerate(policy.rules):
            found[f"{prefix}{_rule_name(policy, index)}{suffix}"] = build_rule(rule, place, tcp=tcp)
    return RBAC(action=action, policies=found)


def _rule_name(policy: PolicyInput, index: int) -> str:
    """Return the name by which answers, logs and statistics tell one rule."""
    return f"ns[{policy.namespace}]-policy[{policy.name}]-rule[{index}]"
