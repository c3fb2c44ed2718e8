"""What filters before this one found out: claims of a verified token, and what others left.

The filter that checks tokens (`translate/jwt.py`) leaves the claims in dynamic metadata; without a token there are
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy.config.rbac.v3.rbac_pb2 import DYNAMIC, Principal, SourcedMetadata
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher

from lateen.pilot.translate.authz.logic import PRINCIPALS
from lateen.pilot.translate.authz.texts import text_matcher

__all__ = ["claim", "filter_metadata", "request_principal"]

JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
PAYLOAD: Final = "payload"


def request_principal(pattern: str) -> Principal:
    """Return the matcher for `<issuer>/<subject>`, split at the last slash; without one, for the half with the `*`."""
    issuer, slash, subject = pattern.rpartition("/")
    if not slash:
        if pattern.startswith("*"):
            issuer, subject = "*", pattern
        elif pattern.endswith("*"):
            issuer, subject = pattern, "*"
        else:
            return PRINCIPALS.never  # there is no request principal without a slash
    if not issuer or not subject:
        return PRINCIPALS.never  # nor one with nothing before it or behind it
    return PRINCIPALS.all_of([_text("iss", issuer), _text("sub", subject)])


def claim(steps: Sequence[str], pattern: str) -> Principal:
    """Return the matcher for a claim, nested by `steps`: its text, or any element of its list."""
    value = ValueMatcher(string_match=text_matcher(pattern))
    either = ValueMatcher(
        or_match=OrMatcher(value_matchers=[ValueMatcher(list_match=ListMatcher(one_of=value)), value])
    )
    return _metadata(JWT_FILTER, (PAYLOAD, *steps), either)


def filter_metadata(filter_name: str, key: str, pattern: str) -> Principal:
    """Return the matcher for what another filter found out: `[v]` an element of a list, else a text."""
    if pattern.startswith("[") and pattern.endswith("]") and len(pattern) > 2:
        element = ValueMatcher(string_match=text_matcher(pattern[1:-1]))
        return _metadata(filter_name, (key,), ValueMatcher(list_match=ListMatcher(one_of=element)))
    return _metadata(filter_name, (key,), ValueMatcher(string_match=text_matcher(pattern)))


def _text(name: str, pattern: str) -> Principal:
    return _metadata(JWT_FILTER, (PAYLOAD, name), ValueMatcher(string_match=text_matcher(pattern)))


def _metadata(filter_name: str, steps: Sequence[str], value: ValueMatcher) -> Principal:
    path = [MetadataMatcher.PathSegment(key=step) for step in steps]
    found = MetadataMatcher(filter=filter_name, path=path, value=value)
    return Principal(sourced_metadata=SourcedMetadata(metadata_matcher=found, metadata_source=DYNAMIC))
