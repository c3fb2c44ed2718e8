"""Which headers of a request travel on to the services that it makes us call.

A sidecar cannot know which outbound call belongs to which inbound one, so the application carries what ties them:
trace context, the request's id, and who asks. The names are those of the tracers that Envoy speaks to.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["select_forwarded"]

_NAMES = frozenset(
    {
        "end-user",
        "user-agent",
        "cookie",
        "authorization",
        "x-request-id",
        "traceparent",  # W3C Trace Context
        "tracestate",
        "baggage",
        "b3",  # Zipkin, in one header
        "x-ot-span-context",  # Lightstep
        "grpc-trace-bin",  # OpenCensus
        "sw8",  # SkyWalking
        "x-cloud-trace-context",  # Google Cloud
    }
)
_PREFIXES = ("x-b3-", "x-datadog-")


def select_forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that travel on, from headers with lower-case names."""
    return {name: value for name, value in headers.items() if name in _NAMES or name.startswith(_PREFIXES)}
