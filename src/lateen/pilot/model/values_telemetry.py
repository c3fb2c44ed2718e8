"""What a listener reports of traffic, after all Telemetries and the mesh's own settings: values for translation.

The labels of the proxy's own workload are in none of them, so that proxies can share a listener: see
`lateen.wire.peer_env`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

__all__ = [
    "METRICS",
    "STANDARD_METRICS",
    "AccessLog",
    "Collector",
    "Datadog",
    "FileLog",
    "GrpcLog",
    "Metrics",
    "OpenTelemetry",
    "OtelLog",
    "SkyWalking",
    "Telemetry",
    "TraceTag",
    "Tracing",
    "Zipkin",
]

# Istio's name of a metric in a Telemetry -> its name without the prefix `istio_`, in Istio's order.
METRICS: Final = {
    "REQUEST_COUNT": "requests_total",
    "REQUEST_DURATION": "request_duration_milliseconds",
    "REQUEST_SIZE": "request_bytes",
    "RESPONSE_SIZE": "response_bytes",
    "TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
    "TCP_SENT_BYTES": "tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "tcp_received_bytes_total",
    "GRPC_REQUEST_MESSAGES": "request_messages_total",
    "GRPC_RESPONSE_MESSAGES": "response_messages_total",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How the metrics of one side differ from the standard ones."""

    off: tuple[str, ...] = ()  # values of METRICS that are not reported, sorted
    # value of METRICS -> (label, CEL expression; None: the label is left out), both sorted
    labels: tuple[tuple[str, tuple[tuple[str, str | None], ...]], ...] = ()

    def on(self, name: str) -> bool:
        return name not in self.off


STANDARD_METRICS: Final = Metrics()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Where reports are sent: a service as the proxy reaches it."""

    cluster: str
    authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLog:
    """Lines in a file of the proxy's machine."""

    path: str
    json: bool = False
    format: str = ""  # text with a line's end, or a JSON object; "" means Istio's default format
    omit_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLog:
    """Envoy's own access log service: of requests, or of connections."""

    collector: Collector
    http: bool
    log_name: str
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    response_trailers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OtelLog:
    """Log records of OpenTelemetry. `body` "" is the default text; attributes are a JSON object, "" for none."""

    collector: Collector
    log_name: str
    body: str = ""
    attributes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog:
    """One access log, and which requests and connections it is of."""

    sink: FileLog | GrpcLog | OtelLog
    when: str = ""  # CEL over Envoy's attributes; "" is all


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTag:
    """One tag of spans. `kind` is one of literal, environment, header, formatter; `source` is what it is made of."""

    name: str
    kind: str
    source: str
    default: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zipkin:
    collector: Collector
    path: str = "/api/v2/spans"
    short_ids: bool = False  # trace ids of 64 bits
    w3c: bool = False  # traceparent is understood and sent beside B3
    headers: tuple[tuple[str, str], ...] = ()
    timeout: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTelemetry:
    """`path` "" is gRPC."""

    collector: Collector
    port: int = 0  # of the collector, for its URL
    path: str = ""
    timeout: timedelta = timedelta(0)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Datadog:
    collector: Collector


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyWalking:
    collector: Collector
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Spans of one side. `tracer` None: the request's decision and its headers are handled, and nothing is reported."""

    tracer: Zipkin | OpenTelemetry | Datadog | SkyWalking | None
    percent: float = 1.0  # of requests that carry no decision
    tags: tuple[TraceTag, ...] = ()  # sorted by name
    istio_tags: bool = True
    max_path_length: int | None = None  # Envoy's default
    propagate: bool = True  # headers of a trace go on to the next
    decide_by_request_id: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What a listener reports. `metrics` None: no metrics; `tracing` None: no traces."""

    access_logs: tuple[AccessLog, ...] = ()  # sorted by provider
    listener_logs: bool = True  # connections that no filter chain takes are logged too
    metrics: Metrics | None = STANDARD_METRICS
    tracing: Tracing | None = None
