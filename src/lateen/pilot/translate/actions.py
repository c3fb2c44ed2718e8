"""What a route does: send on, redirect, or answer itself.

In:  one `RouteInput`.
Out: the one action field of `envoy.config.route.v3.Route`, by its name.
Rules: Istio `HTTPRoute`, docs/api/translation.md "Actions".
"""

from __future__ import annotations

from typing import Any, Final

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    RedirectAction,
    RouteAction,
    WeightedCluster,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.values import Destination, HashPolicy, MirrorInput, RouteInput
from lateen.pilot.translate.headers import authority_of, header_fields
from lateen.pilot.translate.parts import ZERO, duration, regex, runtime_fraction, uint32
from lateen.pilot.translate.retries import build_retry_policy

__all__ = ["NO_TIMEOUT", "build_action", "cluster_headers"]

_REDIRECT_CODES: Final = {
    0: RedirectAction.MOVED_PERMANENTLY,
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NOT_TRACED: Final = BoolValue(value=False)

# Nothing about `grpc-timeout`: Istio's `max_grpc_timeout` is deprecated, and beside its successor `max_stream_duration`
# Envoy ignores `timeout`. A gRPC client ends its call by that header itself, and the route's timeout bounds it as any.
NO_TIMEOUT: Final = {"timeout": ZERO}


def build_action(inp: RouteInput) -> dict[str, Any]:
    """Return `{"route": ...}`, `{"redirect": ...}` or `{"direct_response": ...}`."""
    if inp.redirect is not None:
        return _redirect(inp)
    if inp.direct_response is not None:
        return {"direct_response": _direct_response(inp.direct_response)}
    return {"route": _forward(inp)}


def _redirect(inp: RouteInput) -> dict[str, Any]:
    redirect = inp.redirect
    path: dict[str, Any] = {}
    if redirect.prefix_rewrite:
        path = {"prefix_rewrite": redirect.prefix_rewrite}
    elif redirect.uri:
        path = {"path_redirect": redirect.uri}
    scheme = {"scheme_redirect": redirect.scheme} if redirect.scheme else {}
    return {
        "redirect": RedirectAction(
            host_redirect=redirect.authority or "",
            port_redirect=_redirect_port(inp),
            response_code=_REDIRECT_CODES[redirect.redirect_code or 0],
            **path,
            **scheme,
        )
    }


def _redirect_port(inp: RouteInput) -> int:
    """Return the port of the new address; 0 where the scheme implies it."""
    redirect = inp.redirect
    port = redirect.port or (inp.listen_port if redirect.derive_port == "FROM_REQUEST_PORT" else 0)
    scheme = redirect.scheme or ("https" if inp.tls else "http")
    return 0 if port == _DEFAULT_PORTS[scheme] else int(port)


def _direct_response(response: Any) -> DirectResponseAction:
    body = response.body
    if body is None:
        source = None
    elif body.string is not None:
        source = DataSource(inline_string=body.string)
    else:
        source = DataSource(inline_bytes=body.bytes or b"")
    return DirectResponseAction(status=response.status, body=source)


def _forward(inp: RouteInput) -> RouteAction:
    single = inp.destinations[0] if len(inp.destinations) == 1 else None
    return RouteAction(
        retry_policy=build_retry_policy(inp.retries, consistent_hash=single is not None and bool(inp.hash_policies)),
        request_mirror_policies=[_mirror(mirror) for mirror in inp.mirrors],
        hash_policy=[_hash_policy(policy) for policy in inp.hash_policies],
        timeout=duration(inp.timeout) if inp.timeout else ZERO,  # left out, Envoy would apply its own 15 s
        **_target(inp, single),
        **_path_rewrite(inp.rewrite),
        **_host_rewrite(inp, single),
    )


def _target(inp: RouteInput, single: Destination | None) -> dict[str, Any]:
    if single is not None:
        return {"cluster": single.cluster}
    return {
        "weighted_clusters": WeightedCluster(
            clusters=[_weighted(entry, cluster_headers(inp)) for entry in inp.destinations if entry.weight]
        )
    }


def cluster_headers(inp: RouteInput) -> Any:
    """Return the rule's headers where each of several destinations must repeat them, None where the route has them.

    What a destination says of a header must come after what its rule says, and of the two Envoy has the route's word
    last, whatever `most_specific_header_mutations_wins` says (tried with 1.40).
    """
    several = len(inp.destinations) > 1 and any(entry.headers is not None for entry in inp.destinations)
    return inp.headers if several else None


def _weighted(destination: Destination, rule: Any) -> WeightedCluster.ClusterWeight:
    authority = authority_of(destination.headers)
    return WeightedCluster.ClusterWeight(
        name=destination.cluster,
        weight=uint32(destination.weight),
        **header_fields(rule, destination.headers),
        **({"host_rewrite_literal": authority} if authority else {}),
    )


def _path_rewrite(rewrite: Any) -> dict[str, Any]:
    if rewrite is None:
        return {}
    if rewrite.uri_regex_rewrite is not None:
        return {
            "regex_rewrite": RegexMatchAndSubstitute(
                pattern=regex(rewrite.uri_regex_rewrite.match), substitution=rewrite.uri_regex_rewrite.rewrite
            )
        }
    return {"prefix_rewrite": rewrite.uri} if rewrite.uri else {}


def _host_rewrite(inp: RouteInput, single: Destination | None) -> dict[str, Any]:
    authority = (
        (inp.rewrite is not None and inp.rewrite.authority)
        or authority_of(inp.headers)
        or (single is not None and authority_of(single.headers))
    )
    return {"host_rewrite_literal": authority} if authority else {}


def _mirror(mirror: MirrorInput) -> RouteAction.RequestMirrorPolicy:
    return RouteAction.RequestMirrorPolicy(
        cluster=mirror.cluster,
        runtime_fraction=runtime_fraction(mirror.percent),
        trace_sampled=_NOT_TRACED,
        disable_shadow_host_suffix_append=True,
    )


def _hash_policy(policy: HashPolicy) -> RouteAction.HashPolicy:
    kinds = RouteAction.HashPolicy
    match policy.kind:
        case "header":
            return kinds(header=kinds.Header(header_name=policy.name))
        case "cookie":
            return kinds(
                cookie=kinds.Cookie(
                    name=policy.name,
                    ttl=None if policy.ttl is None else duration(policy.ttl),
                    path=policy.path,
                    attributes=[kinds.CookieAttribute(name=name, value=value) for name, value in policy.attributes],
                )
            )
        case "source-ip":
            return kinds(connection_properties=kinds.ConnectionProperties(source_ip=True))
        case "query":
            return kinds(query_parameter=kinds.QueryParameter(name=policy.name))
        case _:
            raise ValueError(f"hash policy of kind {policy.kind!r}; header, cookie, source-ip or query wanted")
