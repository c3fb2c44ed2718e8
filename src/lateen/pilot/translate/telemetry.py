"""Istio's standard metrics, from Envoy itself: its stats access logger.

In:  the side that reports (source, destination; a gateway is a source of its own kind), HTTP or TCP, mutual TLS or not,
     and how metrics differ from the standard ones.
Out: `envoy.config.accesslog.v3.AccessLog`s: constants, shared by every listener of every proxy, unless a Telemetry
     changes them. Where labels come from is in `metric_labels`.
Rules: Istio's standard metrics, docs/api/translation.md "Metrics".

Envoy puts `envoy_` before every name (`envoy_istio_requests_total`); the agent, which serves them, takes it off again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    HeaderFilter,
    LogTypeFilter,
    OrFilter,
    ResponseFlagFilter,
)
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.extensions.access_loggers.stats.v3.stats_pb2 import Config
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import UInt64Value

from lateen.pilot.model.values_telemetry import STANDARD_METRICS, Metrics
from lateen.pilot.translate.grpc_messages import MESSAGE_METRICS, messages_format
from lateen.pilot.translate.metric_expressions import label_format
from lateen.pilot.translate.metric_labels import (
    GATEWAY_LABELS,
    GRPC_LABELS,
    HTTP_LABELS,
    INBOUND_LABELS,
    INBOUND_TCP_LABELS,
    OUTBOUND_LABELS,
    OUTBOUND_TCP_LABELS,
    TCP_LABELS,
    without,
)
from lateen.pilot.translate.pack import TYPE_PREFIX, length_delimited, varint_field
from lateen.wire.label_text import LABELS, labels_format
from lateen.wire.peer_env import LEFT_OUT
from lateen.wire.series import MAX_COUNTERS, MAX_HISTOGRAMS

__all__ = [
    "gateway_http_loggers",
    "inbound_http_loggers",
    "inbound_tcp_loggers",
    "outbound_http_loggers",
    "outbound_tcp_loggers",
    "stats_logger",
]

PREFIX: Final = "istio"

# Flags of connections that never reached an upstream. Envoy reports no connection there, Istio counts it as opened.
_NEVER_CONNECTED: Final = ("UF", "UO", "UH", "NC", "URX", "UAEX")

Loggers = tuple[AccessLog, ...]


def outbound_http_loggers(metrics: Metrics | None) -> Loggers:
    """Return the loggers of requests that leave a workload. `metrics` None: nothing is reported, here and below."""
    return _http_loggers("outbound", metrics)


def gateway_http_loggers(metrics: Metrics | None) -> Loggers:
    """Return the loggers of requests that enter the mesh."""
    return _http_loggers("gateway", metrics)


def inbound_http_loggers(metrics: Metrics | None, *, mtls: bool) -> Loggers:
    """Return the loggers of requests that reach the workload by a chain that ends mutual TLS, or by another."""
    return _http_loggers("inbound-mtls" if mtls else "inbound", metrics)


def outbound_tcp_loggers(metrics: Metrics | None) -> Loggers:
    """Return the loggers of connections that leave a workload, or enter the mesh."""
    return _tcp_loggers("outbound", metrics)


def inbound_tcp_loggers(metrics: Metrics | None, *, mtls: bool) -> Loggers:
    """Return the loggers of connections that reach the workload by a chain that ends mutual TLS, or by another."""
    return _tcp_loggers("inbound-mtls" if mtls else "inbound", metrics)


_HTTP_SIDES: Final[Mapping[str, Mapping[str, str]]] = {
    "outbound": OUTBOUND_LABELS,
    "gateway": GATEWAY_LABELS,
    "inbound-mtls": INBOUND_LABELS[True],
    "inbound": INBOUND_LABELS[False],
}
_TCP_SIDES: Final[Mapping[str, Mapping[str, str]]] = {
    "outbound": OUTBOUND_TCP_LABELS,
    "inbound-mtls": INBOUND_TCP_LABELS[True],
    "inbound": INBOUND_TCP_LABELS[False],
}


# A logger for gRPC and one for the rest: to ask in each label what a request speaks costs more than all other labels.
_GRPC: Final = AccessLogFilter(
    header_filter=HeaderFilter(
        header=HeaderMatcher(name="content-type", string_match=StringMatcher(prefix="application/grpc"))
    )
)
_HTTP: Final = AccessLogFilter(
    header_filter=HeaderFilter(
        header=HeaderMatcher(
            name="content-type",
            string_match=StringMatcher(prefix="application/grpc"),
            invert_match=True,
            treat_missing_header_as_empty=True,
        )
    )
)


@lru_cache(maxsize=512)
def _http_loggers(side: str, metrics: Metrics | None) -> Loggers:
    if metrics is None:
        return ()
    parts = []
    for when, labels in ((_HTTP, HTTP_LABELS), (_GRPC, GRPC_LABELS)):
        tags = _tags_by_metric({**_HTTP_SIDES[side], **labels}, metrics)
        counters = [_counter("requests_total", tags)]
        if labels is GRPC_LABELS:
            counters += [_counter(name, tags, messages_format(name)) for name in MESSAGE_METRICS]
        histograms = [
            _histogram("request_duration_milliseconds", tags, Config.Histogram.Milliseconds, "%DURATION%"),
            _histogram("request_bytes", tags, Config.Histogram.Bytes, "%DOWNSTREAM_WIRE_BYTES_RECEIVED%"),
            _histogram("response_bytes", tags, Config.Histogram.Bytes, "%DOWNSTREAM_WIRE_BYTES_SENT%"),
        ]
        parts.append((when, _reported(counters, metrics), _reported(histograms, metrics)))
    return _loggers(parts)


@lru_cache(maxsize=512)
def _tcp_loggers(side: str, metrics: Metrics | None) -> Loggers:
    if metrics is None:
        return ()
    tags = _tags_by_metric({**_TCP_SIDES[side], **TCP_LABELS}, metrics)
    never_connected = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=_NEVER_CONNECTED))
    ended = _of_type(AccessLogType.TcpConnectionEnd)
    failed = AccessLogFilter(and_filter=AndFilter(filters=[ended, never_connected]))
    opened = AccessLogFilter(or_filter=OrFilter(filters=[_of_type(AccessLogType.TcpUpstreamConnected), failed]))
    at_the_end = [
        _counter("tcp_connections_closed_total", tags),
        # Envoy tells totals of a connection, no differences: bytes are counted when it ends.
        _counter("tcp_sent_bytes_total", tags, "%BYTES_SENT%"),
        _counter("tcp_received_bytes_total", tags, "%BYTES_RECEIVED%"),
    ]
    return _loggers(
        [
            (opened, _reported([_counter("tcp_connections_opened_total", tags)], metrics), []),
            (ended, _reported(at_the_end, metrics), []),
        ]
    )


def _of_type(kind: int) -> AccessLogFilter:
    return AccessLogFilter(log_type_filter=LogTypeFilter(types=[kind]))


Tags = Callable[[str], list[Config.Tag]]


def _tags_by_metric(labels: Mapping[str, str], metrics: Metrics) -> Tags:
    """Return what gives the labels of a metric: the standard ones as one text, and what a Telemetry makes of others."""
    changed = dict(metrics.labels)

    @cache
    def tags(name: str) -> list[Config.Tag]:
        # A label that the agent would put there has to be said to be left out.
        formats = {
            label: LEFT_OUT if expression is None else label_format(expression)
            for label, expression in changed.get(name, ())
        }
        standard = Config.Tag(name=LABELS, value_format=labels_format(without(labels, formats)))
        return [standard, *(Config.Tag(name=label, value_format=formats[label]) for label in sorted(formats))]

    return tags


def _counter(name: str, tags: Tags, value: str = "") -> Config.Counter:
    stat = Config.Stat(name=name, tags=tags(name))
    if value:
        return Config.Counter(stat=stat, value_format=value)
    return Config.Counter(stat=stat, value_fixed=UInt64Value(value=1))


def _histogram(name: str, tags: Tags, unit: int, value: str) -> Config.Histogram:
    return Config.Histogram(stat=Config.Stat(name=name, tags=tags(name)), unit=unit, value_format=value)


def _reported(stats: list[Any], metrics: Metrics) -> list[Any]:
    return [stat for stat in stats if metrics.on(stat.stat.name)]


def _loggers(parts: list[tuple[AccessLogFilter | None, list[Any], list[Any]]]) -> Loggers:
    return tuple(
        stats_logger(Config(counters=counters, histograms=histograms), PREFIX, when=when)
        for when, counters, histograms in parts
        if counters or histograms
    )


# xds-protos does not know the logger's field `stats_scope` (6, an `envoy.type.v3.Scope`) yet, so it is written by hand:
# max_counters 1, max_histograms 3, enable_eviction 4, prefix 5, sharing_name 6. Its sharing is what keeps series alive
# when the listener that counted them is replaced; `stat_prefix`, which it succeeds, would let them start again at 0.
@cache
def _scope(prefix: str) -> bytes:
    return length_delimited(
        6,
        length_delimited(1, varint_field(1, MAX_COUNTERS))
        + length_delimited(3, varint_field(1, MAX_HISTOGRAMS))
        + varint_field(4, 1)
        + length_delimited(5, prefix.encode())
        + length_delimited(6, prefix.encode()),
    )


def stats_logger(config: Config, prefix: str, *, when: AccessLogFilter | None = None) -> AccessLog:
    """Return a logger that counts. `prefix`: of its names; those with one prefix share series, and their bound."""
    packed = AnyMessage(
        type_url=TYPE_PREFIX + config.DESCRIPTOR.full_name,
        value=config.SerializeToString(deterministic=True) + _scope(prefix),
    )
    return AccessLog(name="envoy.access_loggers.stats", filter=when, typed_config=packed)


# Made once, for the many that change nothing.
for _side in _HTTP_SIDES:
    _http_loggers(_side, STANDARD_METRICS)
for _side in _TCP_SIDES:
    _tcp_loggers(_side, STANDARD_METRICS)
