"""What one `http` rule of a VirtualService must satisfy: its match, its action, and what is done to the request.

Rule ids (VS-..) are those of docs/api/VirtualService.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_label_map, check_port, check_regex
from lateen.api.check_headers import check_headers, host_writes, is_claim_key, is_whole_claim_key
from lateen.api.names import is_dns_label, is_header_name
from lateen.api.places import join_path
from lateen.api.scalars import format_duration
from lateen.api.suggest import listed, nearest
from lateen.api.virtual_service import (
    CorsPolicy,
    HTTPDirectResponse,
    HTTPFaultInjection,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    Percent,
    StringMatch,
)

__all__ = ["GRPC_STATUSES", "check_http_route", "check_retry", "is_claim_key"]

GRPC_STATUSES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
RETRY_WORDS: Final = (
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)
CORS_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*")
PSEUDO_HEADERS: Final = frozenset({":method", ":scheme", ":authority", ":path", ":status"})
BODY_BYTES: Final = 1024 * 1024  # Istio's limit of direct responses, and Envoy's as it is set up
BODY_WARNING_BYTES: Final = 100 * 1024
REDIRECT_CODES: Final = (0, 301, 302, 303, 307, 308)  # 0: not set
LEAST_PERCENT: Final = 0.0001  # what Envoy can express: one in a million
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)


def check_http_route(obj: Object, route: HTTPRoute, path: str, *, root: bool) -> Iterator[Problem]:
    """Yield the faults of one rule, but for its destinations. `root`: its VirtualService has hosts."""
    yield from _check_action(obj, route, path, root=root)
    for i, match in enumerate(route.match):
        yield from _check_match(obj, match, f"{path}.match[{i}]")
    yield from check_headers(obj, route.headers, f"{path}.headers")
    for i, entry in enumerate(route.route):
        yield from check_headers(obj, entry.headers, f"{path}.route[{i}].headers")
    writes = host_writes(route)
    if len(writes) > 1:  # VS-31
        yield obj.problem(f"{path}.{writes[1]}", f"the host is written more than once: {listed(writes)}")
    if route.redirect is not None:
        yield from _check_redirect(obj, route.redirect, route.match, f"{path}.redirect")
    if route.direct_response is not None:
        yield from _check_direct_response(obj, route.direct_response, f"{path}.directResponse")
    if route.rewrite is not None:
        yield from _check_rewrite(obj, route.rewrite, f"{path}.rewrite")
    if route.retries is not None:
        yield from check_retry(obj, route.retries, f"{path}.retries")
    if route.fault is not None:
        yield from _check_fault(obj, route.fault, f"{path}.fault")
    if route.cors_policy is not None:
        yield from _check_cors(obj, route.cors_policy, f"{path}.corsPolicy")
    yield from _check_mirrors(obj, route, path)


def _check_action(obj: Object, route: HTTPRoute, path: str, *, root: bool) -> Iterator[Problem]:
    given = {
        "route": bool(route.route),
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "fault": route.fault is not None,
        "rewrite": route.rewrite is not None,
    }
    if route.delegate is not None:
        if not root:  # VS-15
            yield obj.problem(f"{path}.delegate", "a delegate must not delegate in its turn")
        for name in ("redirect", "route", "directResponse"):
            if given[name]:  # VS-13, VS-14
                yield obj.problem(f"{path}.{name}", "must not stand beside delegate, which brings its own")
        yield from _check_delegate(obj, route, path)
        return
    for action, others in (
        ("redirect", ("route", "fault", "rewrite", "directResponse")),  # VS-16
        ("directResponse", ("route", "fault", "rewrite")),  # VS-17
    ):
        beside = [name for name in others if given[action] and given[name]]
        if beside:
            yield obj.problem(f"{path}.{beside[0]}", f"must not stand beside {action}")
    if not (given["route"] or given["redirect"] or given["directResponse"]):  # VS-18
        yield obj.problem(path, "must have one of route, redirect, directResponse, delegate")


def _check_delegate(obj: Object, route: HTTPRoute, path: str) -> Iterator[Problem]:
    delegate = route.delegate
    if delegate is not None and not delegate.name:
        yield obj.problem(f"{path}.delegate.name", "is required")
    if delegate is not None and delegate.namespace and not is_dns_label(delegate.namespace):
        yield obj.problem(f"{path}.delegate.namespace", f'must be a namespace, got "{delegate.namespace}"')


# ---------------------------------------------------------------- match


def _check_match(obj: Object, match: HTTPMatchRequest, path: str) -> Iterator[Problem]:
    if match.uri is not None and match.uri.regex is not None:
        yield from check_regex(obj, match.uri.regex, f"{path}.uri.regex")
    for name, text in (("scheme", match.scheme), ("method", match.method), ("authority", match.authority)):
        if text is not None:
            yield from _check_string_match(obj, text, f"{path}.{name}")
    yield from _check_header_matches(obj, match.headers, f"{path}.headers")
    yield from _check_header_matches(obj, match.without_headers, f"{path}.withoutHeaders", any_regex=True)
    for name, text in match.query_params.items():
        yield from _check_string_match(obj, text, join_path(f"{path}.queryParams", name), any_regex=True)
    if match.port:  # VS-23
        yield from check_port(obj, match.port, f"{path}.port")
    yield from check_label_map(obj, match.source_labels, f"{path}.sourceLabels")  # VS-24
    if match.source_namespace and not is_dns_label(match.source_namespace):  # VS-26
        yield obj.problem(f"{path}.sourceNamespace", f'must be a namespace, got "{match.source_namespace}"')


def _check_header_matches(
    obj: Object, headers: Mapping[str, StringMatch], path: str, *, any_regex: bool = False
) -> Iterator[Problem]:
    for name, text in headers.items():
        place = join_path(path, name)
        if not (name in PSEUDO_HEADERS or is_claim_key(name) or is_header_name(name)):  # VS-20
            yield obj.problem(place, f'must be the name of a header, got "{name}"')
        if is_claim_key(name) and not is_whole_claim_key(name):
            # Half of one would ask for another claim, or for any token at all.
            yield obj.problem(place, f'must be @request.auth.claims.a.b or @request.auth.claims[a][b], got "{name}"')
        yield from _check_string_match(obj, text, place, any_regex=any_regex)


def _check_string_match(obj: Object, text: StringMatch, path: str, *, any_regex: bool = False) -> Iterator[Problem]:
    if text.prefix == "":  # VS-21
        yield obj.problem(f"{path}.prefix", "must not be empty: leave the match away, or write {} for presence")
    if text.regex is not None and not (any_regex and text.regex == "*"):  # VS-22
        yield from check_regex(obj, text.regex, f"{path}.regex")


# ---------------------------------------------------------------- actions


def _check_redirect(
    obj: Object, redirect: HTTPRedirect, matches: tuple[HTTPMatchRequest, ...], path: str
) -> Iterator[Problem]:
    if redirect.uri and redirect.prefix_rewrite:  # VS-54
        yield obj.problem(f"{path}.prefixRewrite", "must not stand beside uri")
    if redirect.prefix_rewrite and any(match.uri is not None and match.uri.prefix is None for match in matches):
        yield obj.problem(f"{path}.prefixRewrite", "wants every match by uri to be by prefix")  # VS-55
    port = redirect.port is not None or redirect.derive_port is not None
    if not (redirect.uri or redirect.prefix_rewrite or redirect.authority or redirect.scheme or port):  # VS-56
        yield obj.problem(path, "must set uri, prefixRewrite, authority, scheme, port or derivePort")
    if redirect.redirect_code not in REDIRECT_CODES:  # VS-57; others pass with Istio, and come to nothing there
        yield obj.problem(
            f"{path}.redirectCode",
            f"must be 301, 302, 303, 307 or 308, which are those that Envoy sends, got {redirect.redirect_code}",
        )
    if redirect.scheme not in ("", "http", "https"):  # VS-58
        yield obj.problem(f"{path}.scheme", f'must be http or https, got "{redirect.scheme}"')
    if redirect.port is not None and redirect.port > 65535:  # VS-59
        yield obj.problem(f"{path}.port", f"must be a port up to 65535, got {redirect.port}")


def _check_direct_response(obj: Object, response: HTTPDirectResponse, path: str) -> Iterator[Problem]:
    if not 200 <= response.status <= 599:  # VS-60; Istio takes 600, which Envoy refuses
        yield obj.problem(f"{path}.status", f"must be an HTTP status from 200 to 599, got {response.status}")
    if response.body is None:
        return
    size = len(response.body.bytes or b"") + len((response.body.string or "").encode())
    if size > BODY_BYTES:  # VS-61
        yield obj.problem(f"{path}.body", f"must be at most {BODY_BYTES} bytes, got {size}")
    elif size > BODY_WARNING_BYTES:  # VS-62
        yield obj.problem(f"{path}.body", f"every proxy will hold these {size} bytes", "warning")


def _check_rewrite(obj: Object, rewrite: HTTPRewrite, path: str) -> Iterator[Problem]:
    pattern = rewrite.uri_regex_rewrite
    if rewrite.uri and pattern is not None:  # VS-67
        yield obj.problem(f"{path}.uriRegexRewrite", "must not stand beside uri")
    if not (rewrite.uri or rewrite.authority) and pattern is None:  # VS-68
        yield obj.problem(path, "must set uri, uriRegexRewrite or authority")
    if pattern is not None:  # VS-69
        yield from check_regex(obj, pattern.match, f"{path}.uriRegexRewrite.match")
        if not pattern.rewrite:
            yield obj.problem(f"{path}.uriRegexRewrite.rewrite", "must not be empty")


def check_retry(obj: Object, retry: HTTPRetry, path: str) -> Iterator[Problem]:
    """VS-63, VS-64, VS-66."""
    if retry.attempts < 0:
        yield obj.problem(f"{path}.attempts", f"must be 0 or more, got {retry.attempts}")
    if retry.attempts == 0:
        for name, given in (
            ("perTryTimeout", retry.per_try_timeout is not None),
            ("retryOn", bool(retry.retry_on)),
            ("retryRemoteLocalities", retry.retry_remote_localities is not None),
        ):
            if given:
                yield obj.problem(f"{path}.{name}", "means nothing without attempts; set attempts, or drop it")
    for item in retry.retry_on.split(",") if retry.retry_on else ():
        known = item.isascii() and item.isdecimal() and int(item[:4]) in _STATUSES and len(item) == 3
        if item not in RETRY_WORDS and not known:
            near = nearest(item.strip(), RETRY_WORDS)
            hint = f", did you mean {near}?" if near is not None else f"; known are {listed(RETRY_WORDS)}"
            yield obj.problem(f"{path}.retryOn", f'"{item}" is neither a condition nor an HTTP status{hint}')


# ---------------------------------------------------------------- faults, CORS, mirrors


def _check_percent(obj: Object, percent: Percent | None, path: str, *, least: float = 0.0) -> Iterator[Problem]:
    if percent is None:
        return
    if not 0 <= percent.value <= 100 or 0 < percent.value < least:  # VS-37, VS-46
        above = f", or 0, at least {least} otherwise" if least else ""
        yield obj.problem(f"{path}.value", f"must be from 0 to 100{above}, got {percent.value}")


def _check_fault(obj: Object, fault: HTTPFaultInjection, path: str) -> Iterator[Problem]:
    if fault.delay is None and fault.abort is None:  # VS-36
        yield obj.problem(path, "must have delay or abort")
    if (delay := fault.delay) is not None:
        below = f"{path}.delay"
        yield from _check_percent(obj, delay.percentage, f"{below}.percentage", least=LEAST_PERCENT)
        if not 0 <= delay.percent <= 100:
            yield obj.problem(f"{below}.percent", f"must be from 0 to 100, got {delay.percent}")
        if delay.exponential_delay is not None:  # VS-43
            yield obj.problem(f"{below}.exponentialDelay", "is not implemented; use fixedDelay")
        elif delay.fixed_delay is None:
            yield obj.problem(f"{below}.fixedDelay", "is required")
    if (abort := fault.abort) is not None:
        below = f"{path}.abort"
        yield from _check_percent(obj, abort.percentage, f"{below}.percentage", least=LEAST_PERCENT)
        if abort.http2_error is not None:  # VS-40
            yield obj.problem(f"{below}.http2Error", "is not implemented; use httpStatus or grpcStatus")
        elif abort.http_status is None and abort.grpc_status is None:  # VS-41
            yield obj.problem(below, "has neither httpStatus nor grpcStatus, so nothing is aborted", "warning")
        if (
            abort.http_status is not None and not 200 <= abort.http_status <= 599
        ):  # VS-38; Istio takes 600, Envoy does not
            yield obj.problem(f"{below}.httpStatus", f"must be from 200 to 599, got {abort.http_status}")
        if abort.grpc_status is not None and abort.grpc_status not in GRPC_STATUSES:  # VS-39
            near = nearest(abort.grpc_status, GRPC_STATUSES)
            hint = f", did you mean {near}?" if near is not None else f"; known are {listed(GRPC_STATUSES)}"
            yield obj.problem(f"{below}.grpcStatus", f'"{abort.grpc_status}" is not a status of gRPC{hint}')


def _check_cors(obj: Object, cors: CorsPolicy, path: str) -> Iterator[Problem]:
    for i, origin in enumerate(cors.allow_origins):  # VS-32
        place = f"{path}.allowOrigins[{i}]"
        if not (origin.exact or origin.prefix or origin.regex):
            yield obj.problem(place, "must set exact, prefix or regex, and not to empty text")
        elif origin.regex is not None:
            yield from check_regex(obj, origin.regex, f"{place}.regex")
    for i, method in enumerate(cors.allow_methods):  # VS-33
        if method not in CORS_METHODS:
            yield obj.problem(f"{path}.allowMethods[{i}]", f'must be one of {listed(CORS_METHODS)}, got "{method}"')
    for name, headers in (("allowHeaders", cors.allow_headers), ("exposeHeaders", cors.expose_headers)):  # VS-34
        for i, header in enumerate(headers):
            if not is_header_name(header):
                yield obj.problem(f"{path}.{name}[{i}]", f'must be the name of a header or "*", got "{header}"')
    if cors.max_age is not None and cors.max_age % timedelta(seconds=1):  # VS-35
        yield obj.problem(f"{path}.maxAge", f"must be whole seconds, got {format_duration(cors.max_age)}")


def _check_mirrors(obj: Object, route: HTTPRoute, path: str) -> Iterator[Problem]:
    if route.mirror is not None and route.mirrors:  # VS-19
        yield obj.problem(f"{path}.mirrors", "must not stand beside mirror")
    yield from _check_percent(obj, route.mirror_percentage, f"{path}.mirrorPercentage")
    if route.mirror_percent is not None:
        if route.mirror_percent > 100:  # VS-45
            yield obj.problem(f"{path}.mirrorPercent", f"must be from 0 to 100, got {route.mirror_percent}")
        yield obj.problem(f"{path}.mirrorPercent", "is deprecated, use mirrorPercentage", "warning")  # VS-44
    for i, mirror in enumerate(route.mirrors):
        yield from _check_percent(obj, mirror.percentage, f"{path}.mirrors[{i}].percentage")
