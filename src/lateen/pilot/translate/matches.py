"""What a route matches.

In:  one api `HTTPMatchRequest` (its static fields, `port`, `gateways`, `sourceLabels`, `sourceNamespace`, are decided
     before and not read here), and `StringMatch`es.
Out: `envoy.config.route.v3.RouteMatch` and matchers. Header and query matchers are sorted by name.
Rules: Istio `HTTPMatchRequest`, docs/api/translation.md "Matches".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher, RouteMatch
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.translate.parts import regex

__all__ = ["EVERYTHING", "JWT_FILTER", "JWT_PAYLOAD", "build_match", "claim_path", "string_matcher"]

EVERYTHING: Final = RouteMatch(prefix="/")
JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD: Final = "payload"
_CLAIM_PREFIX: Final = "@request.auth.claims"
_CASE_SENSITIVE: Final = BoolValue(value=True)
_ANY_CASE: Final = BoolValue(value=False)


def build_match(match: Any) -> RouteMatch:
    """Return Envoy's match for one `HTTPMatchRequest`; `None` matches every request."""
    if match is None:
        return EVERYTHING
    return RouteMatch(
        case_sensitive=_ANY_CASE if match.ignore_uri_case else _CASE_SENSITIVE,
        headers=list(_headers(match)),
        query_parameters=[_query_parameter(name, value) for name, value in sorted((match.query_params or {}).items())],
        dynamic_metadata=list(_claims(match)),
        **_path(match.uri),
    )


def string_matcher(match: Any) -> StringMatcher | None:
    """Return the matcher for a `StringMatch`; `None` for one that asks for presence only (`{}`, or regex `*`)."""
    if match.exact is not None:
        return StringMatcher(exact=match.exact)
    if match.prefix is not None:
        return StringMatcher(prefix=match.prefix)
    if match.regex is not None and match.regex != "*":
        return StringMatcher(safe_regex=regex(match.regex))
    return None


def _path(uri: Any) -> dict[str, Any]:
    if uri is None:
        return {"prefix": "/"}
    if uri.exact is not None:
        return {"path": uri.exact}
    if uri.prefix is not None:
        return {"prefix": uri.prefix}  # of text, not of segments: `/foo` matches `/foobar`
    if uri.regex is not None:
        return {"safe_regex": regex(uri.regex)}
    return {"prefix": "/"}


def _headers(match: Any) -> Iterator[HeaderMatcher]:
    for name, value in sorted((match.headers or {}).items()):
        if claim_path(name) is None:
            yield _header(name, value)
    for name, value in sorted((match.without_headers or {}).items()):
        if claim_path(name) is None:
            yield _without_header(name, value)
    for name, value in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if value is not None:
            yield _header(name, value)


def _header(name: str, value: Any) -> HeaderMatcher:
    matcher = string_matcher(value)
    if matcher is None:
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=matcher)


def _without_header(name: str, value: Any) -> HeaderMatcher:
    matcher = string_matcher(value)
    if matcher is None:
        return HeaderMatcher(name=name, present_match=True, invert_match=True)
    # A request without the header does not have the unwanted value: it has to match.
    return HeaderMatcher(name=name, string_match=matcher, invert_match=True, treat_missing_header_as_empty=True)


def _query_parameter(name: str, value: Any) -> QueryParameterMatcher:
    matcher = string_matcher(value)
    if matcher is None:
        return QueryParameterMatcher(name=name, present_match=True)
    return QueryParameterMatcher(name=name, string_match=matcher)


def claim_path(key: str) -> tuple[str, ...] | None:
    """Return the path of a JWT claim that a header key names; `None` for ordinary headers.

    `@request.auth.claims.a.b` and `@request.auth.claims[a][b]` both give `("a", "b")`.
    """
    if not key.lower().startswith(_CLAIM_PREFIX):
        return None
    rest = key[len(_CLAIM_PREFIX) :]
    if rest.startswith("["):
        return tuple(re.findall(r"\[([^\]]*)\]", rest))
    return tuple(part for part in rest.split(".") if part)


def _claims(match: Any) -> Iterator[MetadataMatcher]:
    for headers, invert in ((match.headers, False), (match.without_headers, True)):
        for name, value in sorted((headers or {}).items()):
            path = claim_path(name)
            if path is not None:
                yield MetadataMatcher(
                    filter=JWT_FILTER,
                    path=[MetadataMatcher.PathSegment(key=part) for part in (JWT_PAYLOAD, *path)],
                    value=_claim_value(value),
                    invert=invert,
                )


def _claim_value(value: Any) -> ValueMatcher:
    """Match a claim that is the value, or a list that holds it."""
    matcher = string_matcher(value)
    if matcher is None:
        return ValueMatcher(present_match=True)
    scalar = ValueMatcher(string_match=matcher)
    return ValueMatcher(
        or_match=OrMatcher(value_matchers=[ValueMatcher(list_match=ListMatcher(one_of=scalar)), scalar])
    )
