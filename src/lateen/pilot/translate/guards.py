"""The filters that decide whether a request or a connection may go on, in Istio's order.

In:  what is in force at one listener about tokens and policies.
Out: HTTP filters and network filters, none where nothing is in force.
Rules: docs/api/translation.md "Guards".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from lateen.pilot.model.values_authz import Authorization
from lateen.pilot.model.values_called import NO_CALLS, MixerCalls
from lateen.pilot.model.values_jwt import RequestAuth
from lateen.pilot.translate.authz import Decisions, Vouching, build_decisions
from lateen.pilot.translate.jwt import build_jwt_filters, strip_outputs
from lateen.pilot.translate.mixer.called import http_calls, tcp_calls
from lateen.pilot.translate.mixer.inside import http_rules, tcp_rules
from lateen.pilot.translate.mixer.limits import http_limits

__all__ = ["Guards", "build_guards"]


@dataclass(frozen=True, slots=True)
class Guards:
    """Filters that stand before all that acts on a request (`http`) or carries a connection (`tcp`).

    `early` changes requests before their route is chosen.
    """

    early: tuple[TypedExtensionConfig, ...] = ()
    http: tuple[HttpFilter, ...] = ()
    tcp: tuple[Filter, ...] = ()


def build_guards(
    request_auth: RequestAuth,
    authorization: Authorization,
    vouching: Vouching = Vouching.MESH,
    mixer: MixerCalls = NO_CALLS,
) -> Guards:
    """Return the guards of chains: external authorizers, then tokens, then AUDIT, DENY and ALLOW rules.

    Authorizers go first, as in Istio, so what a token says is not known to them. Mixer's rules come last, those that
    Envoy asks about last of all. `vouching` says whose identities are believed there.
    """
    decisions: Decisions = build_decisions(authorization, vouching)
    calls = replace(mixer, vouched=vouching is Vouching.MESH)
    return Guards(
        early=strip_outputs(request_auth),
        http=(
            *decisions.http_asks,
            *build_jwt_filters(request_auth),
            *decisions.http_rules,
            *http_rules(calls),
            *http_calls(calls),
            *http_limits(calls),
        ),
        tcp=(*decisions.tcp_asks, *decisions.tcp_rules, *tcp_rules(calls), *tcp_calls(calls)),
    )
