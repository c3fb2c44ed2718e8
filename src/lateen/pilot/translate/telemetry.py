"""Istio's standard metrics, from Envoy itself: its stats access logger.

In:  the side that reports (source, destination; a gateway is a source of its own kind), HTTP or TCP, mutual TLS or not.
Out: `envoy.config.accesslog.v3.AccessLog`s. All of them are constants, shared by every listener of every proxy: labels
     of the proxy's own workload come from its environment, those of the service from the cluster or the filter chain,
     those of the peer from endpoint metadata or the peer header; `unknown` where nobody knows.
Rules: Istio's standard metrics, docs/api/translation.md "Metrics".

Envoy puts `envoy_` before every name (`envoy_istio_requests_total`); the agent, which serves them, takes it off again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    LogTypeFilter,
    OrFilter,
    ResponseFlagFilter,
)
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.extensions.access_loggers.stats.v3.stats_pb2 import Config
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import UInt64Value

from lateen.pilot.translate.pack import TYPE_PREFIX, length_delimited, varint_field
from lateen.pilot.translate.peers import PEER_KEY, PEER_NAMESPACE
from lateen.wire.peer_env import PEER_FIELDS, UNKNOWN

__all__ = ["GATEWAY_HTTP", "OUTBOUND_HTTP", "OUTBOUND_TCP", "inbound_http_loggers", "inbound_tcp_loggers"]

PREFIX: Final = "istio"

# Every combination of labels is a series. A peer that makes them up without end costs metrics, not Envoy's memory.
MAX_COUNTERS: Final = 20_000
MAX_HISTOGRAMS: Final = 30_000

# Flags of connections that never reached an upstream. Envoy reports no connection there, Istio counts it as opened.
_NEVER_CONNECTED: Final = ("UF", "UO", "UH", "NC", "URX", "UAEX")

# Field of `PEER_FIELDS` -> key under which `endpoints` describes a server.
_ENDPOINT_KEYS: Final = {field: "namespace" if field == "workload_namespace" else field for field in PEER_FIELDS}

Operator = tuple[str, str] | str


def _known(*operators: Operator) -> str:
    """Return a format: the first of `operators` to have a value, else `unknown`.

    An operator is a command, `"UPSTREAM_PEER_URI_SAN"`, or a command and its argument, `("REQ", ":authority")`.
    """
    listed = [
        operator if isinstance(operator, str) else {"command": operator[0], "param": operator[1]}
        for operator in (*operators, ("ENVIRONMENT", UNKNOWN))
    ]
    return f"%COALESCE({json.dumps({'operators': listed}, separators=(',', ':'))})%"


def _peer(side: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{side}_{field}": value for field, value in values.items()}


_OWN: Final = {field: f"%ENVIRONMENT({variable})%" for field, variable in PEER_FIELDS.items()}
_NOBODY: Final = dict.fromkeys(PEER_FIELDS, "unknown")

# The client's namespace as its certificate proves it, where its proxy says nothing.
_CERTIFIED_NAMESPACE: Final = (
    "CEL",
    "re.extract(connection.uri_san_peer_certificate, '^spiffe://[^/]+/ns/([^/]+)/sa/.*$', '\\\\1')",
)
_CLIENT_HTTP: Final = {
    field: _known(
        ("DYNAMIC_METADATA", f"{PEER_NAMESPACE}:{PEER_KEY}:{field}"),
        *([_CERTIFIED_NAMESPACE] if field == "workload_namespace" else []),
    )
    for field in PEER_FIELDS
}
# Stock Envoy exchanges nothing before TCP's own bytes: the certificate is all there is.
_CLIENT_TCP: Final = {**_NOBODY, "workload_namespace": _known(_CERTIFIED_NAMESPACE)}
_SERVER: Final = {field: _known(("UPSTREAM_METADATA", f"istio:{key}")) for field, key in _ENDPOINT_KEYS.items()}


def _service_of_cluster(*, host_header: bool) -> dict[str, str]:
    host: list[Operator] = [("METADATA", "CLUSTER:istio:host")]
    if host_header:
        host.append(("REQ", ":authority"))  # what sidecars call services outside the registry
    return {
        "destination_service": _known(*host),
        "destination_service_name": _known(("METADATA", "CLUSTER:istio:service_name")),
        "destination_service_namespace": _known(
            ("METADATA", "CLUSTER:istio:service_namespace"), ("UPSTREAM_METADATA", "istio:namespace")
        ),
    }


# Of the filter chain, not of the cluster: so connections and requests that are refused have their labels too.
_SERVICE_OF_CHAIN: Final = {
    "destination_service": _known(("METADATA", "LISTENER_FILTER_CHAIN:istio:host")),
    "destination_service_name": _known(("METADATA", "LISTENER_FILTER_CHAIN:istio:service_name")),
    "destination_service_namespace": _known(
        ("METADATA", "LISTENER_FILTER_CHAIN:istio:service_namespace"),
        ("ENVIRONMENT", PEER_FIELDS["workload_namespace"]),
    ),
}

_HTTP: Final = {
    "request_protocol": (
        "%CEL('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc')"
        " ? 'grpc' : 'http')%"
    ),
    "response_code": "%RESPONSE_CODE%",
    "grpc_response_status": "%GRPC_STATUS_NUMBER%",
    "response_flags": "%RESPONSE_FLAGS%",
}
_TCP: Final = {"request_protocol": "tcp", "response_flags": "%RESPONSE_FLAGS%"}

_SOURCE: Final = {
    "reporter": "source",
    "source_principal": _known("UPSTREAM_LOCAL_URI_SAN"),
    "destination_principal": _known("UPSTREAM_PEER_URI_SAN"),
    "connection_security_policy": "unknown",  # a client cannot vouch for what the server demanded
    **_peer("source", _OWN),
    **_peer("destination", _SERVER),
}
_MUTUAL_TLS: Final = {
    "reporter": "destination",
    "source_principal": _known("DOWNSTREAM_PEER_URI_SAN"),
    "destination_principal": _known("DOWNSTREAM_LOCAL_URI_SAN"),
    "connection_security_policy": "mutual_tls",
    **_peer("destination", _OWN),
    **_SERVICE_OF_CHAIN,
}
_PLAIN: Final = {
    "reporter": "destination",
    "source_principal": "unknown",
    "destination_principal": "unknown",
    "connection_security_policy": "none",
    **_peer("source", _NOBODY),
    **_peer("destination", _OWN),
    **_SERVICE_OF_CHAIN,
}


def inbound_http_loggers(*, mtls: bool) -> tuple[AccessLog, ...]:
    """Return the loggers of requests that reach the workload by a chain that ends mutual TLS, or by another."""
    return _INBOUND_HTTP[mtls]


def inbound_tcp_loggers(*, mtls: bool) -> tuple[AccessLog, ...]:
    """Return the loggers of connections that reach the workload by a chain that ends mutual TLS, or by another."""
    return _INBOUND_TCP[mtls]


def _http_loggers(labels: Mapping[str, str]) -> tuple[AccessLog, ...]:
    tags = _tags({**labels, **_HTTP})
    config = Config(
        counters=[_counter("requests_total", tags)],
        histograms=[
            _histogram("request_duration_milliseconds", tags, Config.Histogram.Milliseconds, "%DURATION%"),
            _histogram("request_bytes", tags, Config.Histogram.Bytes, "%DOWNSTREAM_WIRE_BYTES_RECEIVED%"),
            _histogram("response_bytes", tags, Config.Histogram.Bytes, "%DOWNSTREAM_WIRE_BYTES_SENT%"),
        ],
    )
    return (_logger(config),)


def _tcp_loggers(labels: Mapping[str, str]) -> tuple[AccessLog, ...]:
    tags = _tags({**labels, **_TCP})
    never_connected = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=_NEVER_CONNECTED))
    ended = _of_type(AccessLogType.TcpConnectionEnd)
    failed = AccessLogFilter(and_filter=AndFilter(filters=[ended, never_connected]))
    opened = AccessLogFilter(or_filter=OrFilter(filters=[_of_type(AccessLogType.TcpUpstreamConnected), failed]))
    return (
        _logger(Config(counters=[_counter("tcp_connections_opened_total", tags)]), when=opened),
        _logger(
            Config(
                counters=[
                    _counter("tcp_connections_closed_total", tags),
                    # Envoy tells totals of a connection, no differences: bytes are counted when it ends.
                    _counter("tcp_sent_bytes_total", tags, "%BYTES_SENT%"),
                    _counter("tcp_received_bytes_total", tags, "%BYTES_RECEIVED%"),
                ]
            ),
            when=ended,
        ),
    )


def _of_type(kind: int) -> AccessLogFilter:
    return AccessLogFilter(log_type_filter=LogTypeFilter(types=[kind]))


def _tags(labels: Mapping[str, str]) -> list[Config.Tag]:
    return [Config.Tag(name=name, value_format=labels[name]) for name in sorted(labels)]


def _counter(name: str, tags: list[Config.Tag], value: str = "") -> Config.Counter:
    stat = Config.Stat(name=name, tags=tags)
    if value:
        return Config.Counter(stat=stat, value_format=value)
    return Config.Counter(stat=stat, value_fixed=UInt64Value(value=1))


def _histogram(name: str, tags: list[Config.Tag], unit: int, value: str) -> Config.Histogram:
    return Config.Histogram(stat=Config.Stat(name=name, tags=tags), unit=unit, value_format=value)


# xds-protos does not know the logger's field `stats_scope` (6, an `envoy.type.v3.Scope`) yet, so it is written by hand:
# max_counters 1, max_histograms 3, enable_eviction 4, prefix 5, sharing_name 6. Its sharing is what keeps series alive
# when the listener that counted them is replaced; `stat_prefix`, which it succeeds, would let them start again at 0.
_SCOPE: Final = length_delimited(
    6,
    length_delimited(1, varint_field(1, MAX_COUNTERS))
    + length_delimited(3, varint_field(1, MAX_HISTOGRAMS))
    + varint_field(4, 1)
    + length_delimited(5, PREFIX.encode())
    + length_delimited(6, PREFIX.encode()),
)


def _logger(config: Config, *, when: AccessLogFilter | None = None) -> AccessLog:
    packed = AnyMessage(
        type_url=TYPE_PREFIX + Config.DESCRIPTOR.full_name,
        value=config.SerializeToString(deterministic=True) + _SCOPE,
    )
    return AccessLog(name="envoy.access_loggers.stats", filter=when, typed_config=packed)


OUTBOUND_HTTP: Final = _http_loggers({**_SOURCE, **_service_of_cluster(host_header=True)})
GATEWAY_HTTP: Final = _http_loggers({**_SOURCE, **_service_of_cluster(host_header=False)})
OUTBOUND_TCP: Final = _tcp_loggers({**_SOURCE, **_service_of_cluster(host_header=False)})
_INBOUND_HTTP: Final = {
    True: _http_loggers({**_MUTUAL_TLS, **_peer("source", _CLIENT_HTTP)}),
    False: _http_loggers(_PLAIN),
}
_INBOUND_TCP: Final = {
    True: _tcp_loggers({**_MUTUAL_TLS, **_peer("source", _CLIENT_TCP)}),
    False: _tcp_loggers(_PLAIN),
}
