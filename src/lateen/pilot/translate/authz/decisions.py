"""The filters of one listener's policies.

In:  one `Authorization`.
Out: `Decisions`, its filters in the order in which they decide: authorizers, AUDIT, DENY, ALLOW.
Each action is a filter of its own; an action that no policy has, has none. Policies that are only tried out are the
filter's shadow rules. Rules: docs/api/AuthorizationPolicy.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from lateen.pilot.model.values_authz import Authorization
from lateen.pilot.translate.authz.authorizers import http_authorizers, tcp_authorizers
from lateen.pilot.translate.authz.filters import build_rules, http_rbac, network_rbac
from lateen.pilot.translate.authz.vouching import Vouching

__all__ = ["Decisions", "asks_server_name", "build_decisions"]

_ACTIONS: Final = (("AUDIT", RBAC.LOG), ("DENY", RBAC.DENY), ("ALLOW", RBAC.ALLOW))  # in order
SERVER_NAME: Final = "connection.sni"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Filters of HTTP chains and of others; `asks` come before tokens are read, `rules` after."""

    http_asks: tuple[HttpFilter, ...] = ()
    http_rules: tuple[HttpFilter, ...] = ()
    tcp_asks: tuple[Filter, ...] = ()
    tcp_rules: tuple[Filter, ...] = ()


def build_decisions(authorization: Authorization, vouching: Vouching) -> Decisions:
    """Return the filters of policies where connections are vouched for so, none where there are no policies.

    Same input, same bytes.
    """
    if not authorization.policies:
        return Decisions()
    return Decisions(
        http_asks=tuple(http_authorizers(authorization)),
        tcp_asks=tuple(tcp_authorizers(authorization)),
        http_rules=tuple(http_rbac(**fields) for fields in _filters(authorization, vouching, tcp=False)),
        tcp_rules=tuple(network_rbac(**fields) for fields in _filters(authorization, vouching, tcp=True)),
    )


def asks_server_name(authorization: Authorization) -> bool:
    """Tell whether a policy asks about the server name in clients' TLS greetings, which somebody then must read."""
    rules = (rule for policy in authorization.policies for rule in policy.rules)
    return any(condition.key == SERVER_NAME for rule in rules for condition in rule.when)


def _filters(authorization: Authorization, vouching: Vouching, *, tcp: bool) -> Iterator[dict[str, Any]]:
    how: dict[str, Any] = {"tcp": tcp, "vouching": vouching}
    for action, meaning in _ACTIONS:
        policies = [policy for policy in authorization.policies if policy.action == action]
        enforced = [policy for policy in policies if not policy.dry_run]
        tried = [policy for policy in policies if policy.dry_run]
        fields: dict[str, Any] = {}
        if enforced:
            fields["rules"] = build_rules(enforced, authorization.trust_domains, meaning, **how)
        if tried:
            fields["shadow_rules"] = build_rules(tried, authorization.trust_domains, meaning, **how)
            fields["shadow_rules_stat_prefix"] = f"istio_dry_run_{action.lower()}_"
        if fields:
            yield fields
