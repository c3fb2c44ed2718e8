"""External authorizers: CUSTOM policies as a filter that notes what matches, and one that asks about what was noted.

The first is an RBAC filter with shadow rules only: it denies nothing and leaves the name of the rule that matched in
metadata. The second is Envoy's ext_authz, which is asleep unless that name is of a rule for its authorizer. Names begin
with `istio-ext-authz-<authorizer>-`. An authorizer that cannot be asked has one filter that denies what matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import (
    AuthorizationRequest,
    AuthorizationResponse,
    BufferSettings,
    ExtAuthz,
    HttpService,
)
from envoy.extensions.filters.network.ext_authz.v3.ext_authz_pb2 import ExtAuthz as NetworkExtAuthz
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from envoy.type.v3.http_status_pb2 import HttpStatus

from lateen.pilot.model.values_authz import Authorization, Authorizer, PolicyInput
from lateen.pilot.translate.authz.filters import (
    HTTP_RBAC,
    NETWORK_RBAC,
    STAT_PREFIX,
    build_rules,
    http_rbac,
    network_rbac,
)
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration

__all__ = ["http_authorizers", "tcp_authorizers"]

SHADOW: Final = "istio_ext_authz_"  # begins what the RBAC filter notes
NOTED: Final = f"{SHADOW}shadow_effective_policy_id"
BAD: Final = "-deny-due-to-bad-CUSTOM-action"
DEFAULT_TIMEOUT: Final = timedelta(seconds=600)  # Istio's


def http_authorizers(authorization: Authorization) -> list[HttpFilter]:
    """Return the filters of HTTP chains, a pair for each authorizer, by name; all of them must agree."""
    found: list[HttpFilter] = []
    for authorizer, policies in _by_authorizer(authorization):
        if authorizer.fault:
            found.append(http_rbac(rules=_refusal(authorizer, policies, authorization, tcp=False)))
            continue
        shadow = _noting(authorizer, policies, authorization, tcp=False)
        asking = ExtAuthz(
            transport_api_version=ApiVersion.V3,
            filter_enabled_metadata=_noted(HTTP_RBAC, authorizer),
            **_common(authorizer),
            **(_http_service(authorizer) if authorizer.http is not None else {"grpc_service": _grpc(authorizer)}),
        )
        found.append(http_rbac(shadow_rules=shadow, shadow_rules_stat_prefix=SHADOW))
        found.append(HttpFilter(name="envoy.filters.http.ext_authz", typed_config=pack(asking)))
    return found


def tcp_authorizers(authorization: Authorization) -> list[Filter]:
    """Return the filters of other chains. An authorizer that speaks HTTP is not asked: there is no request."""
    found: list[Filter] = []
    for authorizer, policies in _by_authorizer(authorization):
        if authorizer.fault:
            found.append(network_rbac(rules=_refusal(authorizer, policies, authorization, tcp=True)))
            continue
        if authorizer.grpc is None:
            continue
        shadow = _noting(authorizer, policies, authorization, tcp=True)
        asking = NetworkExtAuthz(
            stat_prefix=STAT_PREFIX,
            transport_api_version=ApiVersion.V3,
            filter_enabled_metadata=_noted(NETWORK_RBAC, authorizer),
            failure_mode_allow=bool(authorizer.grpc.fail_open),
            grpc_service=_grpc(authorizer),
        )
        found.append(network_rbac(shadow_rules=shadow, shadow_rules_stat_prefix=SHADOW))
        found.append(Filter(name="envoy.filters.network.ext_authz", typed_config=pack(asking)))
    return found


def _by_authorizer(authorization: Authorization) -> Iterable[tuple[Authorizer, list[PolicyInput]]]:
    for authorizer in authorization.authorizers:
        policies = [
            policy
            for policy in authorization.policies
            if policy.action == "CUSTOM" and policy.provider == authorizer.name
        ]
        if policies:
            yield authorizer, policies


def _noting(authorizer: Authorizer, policies: Sequence[PolicyInput], whole: Authorization, *, tcp: bool) -> RBAC:
    return build_rules(policies, whole.trust_domains, RBAC.DENY, tcp=tcp, prefix=_prefix(authorizer))


def _refusal(authorizer: Authorizer, policies: Sequence[PolicyInput], whole: Authorization, *, tcp: bool) -> RBAC:
    return build_rules(policies, whole.trust_domains, RBAC.DENY, tcp=tcp, prefix=_prefix(authorizer), suffix=BAD)


def _prefix(authorizer: Authorizer) -> str:
    return f"istio-ext-authz-{authorizer.name}-"


def _noted(rbac: str, authorizer: Authorizer) -> MetadataMatcher:
    # With the bracket that begins a rule's name: one authorizer's name may begin another's.
    start = StringMatcher(prefix=f"{_prefix(authorizer)}ns[")
    return MetadataMatcher(
        filter=rbac, path=[MetadataMatcher.PathSegment(key=NOTED)], value=ValueMatcher(string_match=start)
    )


def _common(authorizer: Authorizer) -> dict[str, Any]:
    body = authorizer.http if authorizer.http is not None else authorizer.grpc
    shown = body.include_request_body_in_check
    return {
        "failure_mode_allow": bool(body.fail_open),
        "clear_route_cache": bool(body.clear_route_cache),
        "status_on_error": HttpStatus(code=int(body.status_on_error)) if body.status_on_error else None,
        "with_request_body": BufferSettings(
            max_request_bytes=shown.max_request_bytes or 0,
            allow_partial_message=bool(shown.allow_partial_message),
            pack_as_bytes=bool(shown.pack_as_bytes),
        )
        if shown is not None
        else None,
    }


def _grpc(authorizer: Authorizer) -> GrpcService:
    return GrpcService(
        envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=authorizer.cluster, authority=authorizer.authority),
        timeout=duration(authorizer.grpc.timeout or DEFAULT_TIMEOUT),
    )


def _http_service(authorizer: Authorizer) -> dict[str, Any]:
    body = authorizer.http
    added = [
        HeaderValue(key=name, value=value) for name, value in sorted(body.include_additional_headers_in_check.items())
    ]
    return {
        "http_service": HttpService(
            server_uri=HttpUri(
                uri=f"http://{authorizer.authority}",
                cluster=authorizer.cluster,
                timeout=duration(body.timeout or DEFAULT_TIMEOUT),
            ),
            path_prefix=body.path_prefix or "",
            authorization_request=AuthorizationRequest(headers_to_add=added) if added else None,
            authorization_response=AuthorizationResponse(
                allowed_upstream_headers=_headers(body.headers_to_upstream_on_allow),
                allowed_client_headers=_headers(body.headers_to_downstream_on_deny),
                allowed_client_headers_on_success=_headers(body.headers_to_downstream_on_allow),
            ),
        ),
        "allowed_headers": _headers(body.include_request_headers_in_check or body.include_headers_in_check),
    }


def _headers(patterns: Sequence[str]) -> ListStringMatcher | None:
    # None, not an empty list: Envoy refuses that, and with it the listener.
    return ListStringMatcher(patterns=[_header(pattern) for pattern in patterns]) if patterns else None


def _header(pattern: str) -> StringMatcher:
    if pattern.startswith("*"):
        return StringMatcher(suffix=pattern[1:], ignore_case=True)
    if pattern.endswith("*"):
        return StringMatcher(prefix=pattern[:-1], ignore_case=True)
    return StringMatcher(exact=pattern, ignore_case=True)
