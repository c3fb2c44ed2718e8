"""Istio's standard metrics, from Envoy itself: its stats access logger.

In:  the side that reports (source, destination; a gateway is a source of its own kind), HTTP or TCP.
Out: `envoy.config.accesslog.v3.AccessLog`s. All of them are constants, shared by every listener of every proxy: labels
     of the proxy's own workload come from its environment, those of the service from the cluster or the filter chain,
     those of the peer from endpoint metadata or the peer header; `unknown` where nobody knows.
Rules: Istio's standard metrics, docs/api/translation.md "Metrics".

Envoy puts `envoy_` before every name (`envoy_istio_requests_total`); the agent, which serves them, takes it off again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    LogTypeFilter,
    OrFilter,
    ResponseFlagFilter,
)
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from xds.type.v3.typed_struct_pb2 import TypedStruct

from lateen.pilot.translate.pack import TYPE_PREFIX, pack
from lateen.pilot.translate.parts import struct
from lateen.pilot.translate.peers import PEER_KEY, PEER_NAMESPACE
from lateen.wire.peer_env import PEER_FIELDS

__all__ = ["GATEWAY_HTTP", "GATEWAY_TCP", "INBOUND_HTTP", "INBOUND_TCP", "OUTBOUND_HTTP", "OUTBOUND_TCP"]

UNKNOWN: Final = "'unknown'"
PREFIX: Final = "istio"

# Every combination of labels is a series. A peer that makes them up without end costs metrics, not Envoy's memory.
MAX_COUNTERS: Final = 20_000
MAX_HISTOGRAMS: Final = 30_000

# Label of the standard metrics -> key under which `endpoints` describes the server.
_ENDPOINT_KEYS: Final = {
    "workload": "workload",
    "workload_namespace": "namespace",
    "cluster": "cluster",
    "app": "app",
    "version": "version",
    "canonical_service": "canonical_service",
    "canonical_revision": "canonical_revision",
}
# Flags of connections that never reached an upstream. Envoy reports no connection there, Istio counts it as opened.
_NEVER_CONNECTED: Final = ("UF", "UO", "UH", "NC", "URX", "UAEX")

Operator = tuple[str, str] | str


def _first(*operators: Operator) -> str:
    """Return a format that is the first of `operators` to have a value: `("METADATA", "CLUSTER:istio:host")`, ..."""
    listed = [
        operator if isinstance(operator, str) else {"command": operator[0], "param": operator[1]}
        for operator in operators
    ]
    return f"%COALESCE({json.dumps({'operators': listed}, separators=(',', ':'))})%"


def _known(*operators: Operator) -> str:
    return _first(*operators, ("CEL", UNKNOWN))


def _own(side: str) -> dict[str, str]:
    return {_label(side, field): f"%ENVIRONMENT({variable})%" for field, variable in PEER_FIELDS.items()}


def _label(side: str, field: str) -> str:
    return f"{side}_{field}"


# Namespace of the client as its certificate proves it, for where the client's proxy says nothing.
_PEER_NAMESPACE: Final = (
    "CEL",
    "re.extract(connection.uri_san_peer_certificate, '^spiffe://[^/]+/ns/([^/]+)/sa/.*$', '\\\\1')",
)


def _client_over_http() -> dict[str, str]:
    path = f"{PEER_NAMESPACE}:{PEER_KEY}"
    return {
        _label("source", field): _known(
            ("DYNAMIC_METADATA", f"{path}:{field}"), *([_PEER_NAMESPACE] if field == "workload_namespace" else [])
        )
        for field in PEER_FIELDS
    }


def _client_over_tcp() -> dict[str, str]:
    # Stock Envoy exchanges nothing before TCP's own bytes: the certificate is all there is.
    return {
        _label("source", field): _known(_PEER_NAMESPACE) if field == "workload_namespace" else "unknown"
        for field in PEER_FIELDS
    }


def _server() -> dict[str, str]:
    return {
        _label("destination", field): _known(("UPSTREAM_METADATA", f"istio:{key}"))
        for field, key in _ENDPOINT_KEYS.items()
    }


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


def _service_of_chain() -> dict[str, str]:
    # Of the filter chain, not of the cluster: so connections and requests that are refused have their labels too.
    return {
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
}
_FLAGS: Final = {"response_flags": _first("RESPONSE_FLAGS", ("CEL", "'-'"))}
_TCP: Final = {"request_protocol": "tcp"}

_SOURCE: Final = {
    "reporter": "source",
    "source_principal": _known("UPSTREAM_LOCAL_URI_SAN"),
    "destination_principal": _known("UPSTREAM_PEER_URI_SAN"),
    "connection_security_policy": "unknown",  # the client cannot vouch for what the server demanded
}
_DESTINATION: Final = {
    "reporter": "destination",
    "source_principal": _known("DOWNSTREAM_PEER_URI_SAN"),
    "destination_principal": _known("DOWNSTREAM_LOCAL_URI_SAN"),
    "connection_security_policy": "%CEL(connection.mtls ? 'mutual_tls' : 'none')%",
}


def _http_loggers(labels: Mapping[str, str]) -> tuple[AccessLog, ...]:
    return (
        _logger(
            labels,
            counters={"requests_total": 1},
            histograms={
                "request_duration_milliseconds": ("Milliseconds", "%DURATION%"),
                "request_bytes": ("Bytes", "%DOWNSTREAM_WIRE_BYTES_RECEIVED%"),
                "response_bytes": ("Bytes", "%DOWNSTREAM_WIRE_BYTES_SENT%"),
            },
        ),
    )


def _tcp_loggers(labels: Mapping[str, str]) -> tuple[AccessLog, ...]:
    opened = AccessLogFilter(
        or_filter=OrFilter(
            filters=[
                _of_type(AccessLogType.TcpUpstreamConnected),
                AccessLogFilter(
                    and_filter=AndFilter(
                        filters=[
                            _of_type(AccessLogType.TcpConnectionEnd),
                            AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=_NEVER_CONNECTED)),
                        ]
                    )
                ),
            ]
        )
    )
    return (
        _logger(labels, counters={"tcp_connections_opened_total": 1}, when=opened),
        _logger(
            labels,
            counters={
                "tcp_connections_closed_total": 1,
                # Envoy tells totals of a connection, no differences: they are counted when it ends.
                "tcp_sent_bytes_total": "%BYTES_SENT%",
                "tcp_received_bytes_total": "%BYTES_RECEIVED%",
            },
            when=_of_type(AccessLogType.TcpConnectionEnd),
        ),
    )


def _of_type(kind: int) -> AccessLogFilter:
    return AccessLogFilter(log_type_filter=LogTypeFilter(types=[kind]))


def _logger(
    labels: Mapping[str, str],
    *,
    counters: Mapping[str, int | str],
    histograms: Mapping[str, tuple[str, str]] | None = None,
    when: AccessLogFilter | None = None,
) -> AccessLog:
    tags = [{"name": name, "value_format": labels[name]} for name in sorted(labels)]
    config: dict[str, Any] = {
        # One scope for all loggers of a proxy: series live on when a listener is replaced.
        "stats_scope": {
            "prefix": PREFIX,
            "sharing_name": PREFIX,
            "enable_eviction": True,
            "max_counters": MAX_COUNTERS,
            "max_histograms": MAX_HISTOGRAMS,
        },
        "counters": [
            {
                "stat": {"name": name, "tags": tags},
                **({"value_fixed": value} if isinstance(value, int) else {"value_format": value}),
            }
            for name, value in counters.items()
        ],
    }
    if histograms:
        config["histograms"] = [
            {"stat": {"name": name, "tags": tags}, "unit": unit, "value_format": value}
            for name, (unit, value) in histograms.items()
        ]
    return AccessLog(
        name="envoy.access_loggers.stats",
        filter=when,
        # As a struct, because xds-protos' message does not know `stats_scope` yet.
        typed_config=pack(
            TypedStruct(type_url=f"{TYPE_PREFIX}envoy.extensions.access_loggers.stats.v3.Config", value=struct(config))
        ),
    )


OUTBOUND_HTTP: Final = _http_loggers(
    {**_SOURCE, **_own("source"), **_server(), **_service_of_cluster(host_header=True), **_HTTP, **_FLAGS}
)
GATEWAY_HTTP: Final = _http_loggers(
    {**_SOURCE, **_own("source"), **_server(), **_service_of_cluster(host_header=False), **_HTTP, **_FLAGS}
)
INBOUND_HTTP: Final = _http_loggers(
    {**_DESTINATION, **_client_over_http(), **_own("destination"), **_service_of_chain(), **_HTTP, **_FLAGS}
)
OUTBOUND_TCP: Final = _tcp_loggers(
    {**_SOURCE, **_own("source"), **_server(), **_service_of_cluster(host_header=False), **_TCP, **_FLAGS}
)
GATEWAY_TCP: Final = OUTBOUND_TCP
INBOUND_TCP: Final = _tcp_loggers(
    {**_DESTINATION, **_client_over_tcp(), **_own("destination"), **_service_of_chain(), **_TCP, **_FLAGS}
)
