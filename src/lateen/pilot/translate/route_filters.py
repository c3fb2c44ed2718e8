"""Per-route configuration of HTTP filters: faults and CORS.

In:  api `HTTPFaultInjection`, `CorsPolicy`.
Out: `typed_per_filter_config`, by filter name.
Rules: docs/api/translation.md "Faults", "CORS".
"""

from __future__ import annotations

from typing import Any, Final

from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.translate.dynamic_forward import DYNAMIC_FILTER, looked_up
from lateen.pilot.translate.matches import string_matcher
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration, fraction, runtime_fraction

__all__ = ["CORS_FILTER", "FAULT_FILTER", "per_filter_config"]

CORS_FILTER: Final = "envoy.filters.http.cors"
FAULT_FILTER: Final = "envoy.filters.http.fault"
_GRPC_STATUSES: Final = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}


def per_filter_config(fault: Any, cors: Any, dynamic_host: str = "") -> dict[str, AnyMessage]:
    """Return what a route tells the fault, CORS and dynamic forward filters; {} for nothing."""
    config = {}
    if fault is not None:
        config[FAULT_FILTER] = pack(HTTPFault(delay=_delay(fault.delay), abort=_abort(fault.abort)))
    if cors is not None:
        config[CORS_FILTER] = pack(_cors(cors))
    if dynamic_host:
        config[DYNAMIC_FILTER] = looked_up(dynamic_host)
    return config


def _delay(delay: Any) -> FaultDelay | None:
    if delay is None or delay.fixed_delay is None:
        return None
    return FaultDelay(fixed_delay=duration(delay.fixed_delay), percentage=_percentage(delay))


def _abort(abort: Any) -> FaultAbort | None:
    if abort is None:
        return None
    if abort.http_status:
        return FaultAbort(http_status=abort.http_status, percentage=_percentage(abort))
    if abort.grpc_status:
        return FaultAbort(grpc_status=_GRPC_STATUSES[abort.grpc_status], percentage=_percentage(abort))
    return None


def _percentage(fault: Any) -> FractionalPercent | None:
    """Return how many requests are hit. Not said: none at all, as Istio documents it."""
    if fault.percentage is not None:
        return fraction(fault.percentage.value or 0)
    percent = getattr(fault, "percent", None)  # deprecated, of delays only
    return FractionalPercent(numerator=percent) if percent else None


def _cors(cors: Any) -> CorsPolicy:
    origins = [string_matcher(origin) for origin in cors.allow_origins or ()] or [
        StringMatcher(exact=origin) for origin in cors.allow_origin or ()
    ]
    return CorsPolicy(
        allow_origin_string_match=[origin for origin in origins if origin is not None],
        allow_methods=",".join(cors.allow_methods or ()),
        allow_headers=",".join(cors.allow_headers or ()),
        expose_headers=",".join(cors.expose_headers or ()),
        max_age="" if cors.max_age is None else str(int(cors.max_age.total_seconds())),
        allow_credentials=None if cors.allow_credentials is None else BoolValue(value=cors.allow_credentials),
        filter_enabled=runtime_fraction(100),
        forward_not_matching_preflights=BoolValue(value=cors.unmatched_preflights != "IGNORE"),
    )
