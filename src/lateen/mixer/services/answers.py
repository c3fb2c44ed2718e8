"""What a decision becomes in Envoy's words: `CheckResponse` and `RateLimitResponse`, as bytes.

In:  one `Outcome`. Out: the message, serialised; the same outcome is serialised once.
A denial names the rule in dynamic metadata (`envoy.filters.http.ext_authz`, key `rule`), where access logs find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from google.protobuf.struct_pb2 import Struct
from google.rpc.code_pb2 import OK, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE
from google.rpc.status_pb2 import Status

__all__ = ["ALLOWED", "Outcome", "check_answer", "limit_answer"]

KEPT: Final = 4096
MAX_BODY: Final = 64 * 1024
_CODES: Final = {401: UNAUTHENTICATED, 429: RESOURCE_EXHAUSTED, 503: UNAVAILABLE}
_STATUSES: Final = frozenset(StatusCode.values()) - {0}
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is to become of a request."""

    allowed: bool = True
    status: int = 403
    body: str = ""
    rule: str = ""  # "<namespace>/<name>" of the one that denied
    headers: Pairs = ()  # of a denial's answer
    request_set: Pairs = ()
    request_remove: tuple[str, ...] = ()
    response_set: Pairs = ()


ALLOWED: Final = Outcome()


@lru_cache(KEPT)
def check_answer(outcome: Outcome, *, tcp: bool) -> bytes:
    """Return the `CheckResponse`; of a connection nothing but yes and no means anything."""
    metadata = _metadata(outcome.rule) if outcome.rule else None
    if outcome.allowed:
        ok = OkHttpResponse(
            headers=_options(outcome.request_set),
            headers_to_remove=outcome.request_remove,
            response_headers_to_add=_options(outcome.response_set),
        )
        found = CheckResponse(status=Status(code=OK), ok_response=None if tcp else ok)
    else:
        status = outcome.status if outcome.status in _STATUSES else 403
        denied = DeniedHttpResponse(
            status=HttpStatus(code=status), headers=_options(outcome.headers), body=outcome.body[:MAX_BODY]
        )
        code = _CODES.get(status, PERMISSION_DENIED)
        found = CheckResponse(
            status=Status(code=code, message=outcome.rule),
            denied_response=None if tcp else denied,
            dynamic_metadata=metadata,
        )
    data: bytes = found.SerializeToString()
    return data


def limit_answer(outcomes: Sequence[Outcome]) -> bytes:
    """Return the `RateLimitResponse` to a call with one outcome a descriptor."""
    denials = [outcome for outcome in outcomes if not outcome.allowed]
    over = RateLimitResponse.OVER_LIMIT
    first = denials[0] if denials else ALLOWED
    headers = first.headers if denials else tuple(pair for outcome in outcomes for pair in outcome.response_set)
    found = RateLimitResponse(
        overall_code=over if denials else RateLimitResponse.OK,
        statuses=[
            RateLimitResponse.DescriptorStatus(code=RateLimitResponse.OK if outcome.allowed else over)
            for outcome in outcomes
        ],
        response_headers_to_add=[HeaderValue(key=name, value=value) for name, value in headers],
        raw_body=first.body[:MAX_BODY].encode() if denials else b"",
        dynamic_metadata=_metadata(first.rule) if first.rule else None,
    )
    data: bytes = found.SerializeToString()
    return data


def _metadata(rule: str) -> Struct:
    found = Struct()
    found.fields["rule"].string_value = rule
    return found


def _options(pairs: Iterable[tuple[str, str]]) -> list[HeaderValueOption]:
    return [
        HeaderValueOption(
            header=HeaderValue(key=name, value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in pairs
    ]
