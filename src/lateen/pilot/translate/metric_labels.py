"""Where Envoy finds the labels of the standard metrics.

In:  the side that reports, mutual TLS or not.
Out: label -> format, for `telemetry`. Only what Envoy alone knows: the rest is put beside it when metrics are read, in
     `lateen.agent.standard_metrics`. That is the labels of the proxy's own workload, which are the same for every
     request; `unknown` where nothing is known; and the seven labels of a peer, which Envoy copies as one text, `peer`.
     Each label that Envoy works out costs every request four times, once for each metric.
Rules: Istio's standard metrics, docs/api/translation.md "Metrics".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from lateen.pilot.translate.peers import ENDPOINT_KEY, PEER_KEY, PEER_NAMESPACE
from lateen.wire.series import MAX_HOST, MAX_PEER

__all__ = [
    "GATEWAY_LABELS",
    "GRPC_LABELS",
    "HTTP_LABELS",
    "INBOUND_LABELS",
    "INBOUND_TCP_LABELS",
    "OUTBOUND_LABELS",
    "OUTBOUND_TCP_LABELS",
    "PEER_LABEL",
    "TCP_LABELS",
    "coalesce",
]

PEER_LABEL: Final = "peer"
Operator = tuple[str, str] | str


def coalesce(*operators: Operator, longest: int = 0) -> str:
    """Return a format: the first of `operators` to have a value.

    An operator is a command, `"UPSTREAM_PEER_URI_SAN"`, or a command and its argument, `("REQ", ":authority")`.
    `longest`: characters of the value, the rest is cut off; 0 is no limit.
    """
    limit = {"max_length": longest} if longest else {}
    listed = [
        operator if isinstance(operator, str) else {"command": operator[0], "param": operator[1], **limit}
        for operator in operators
    ]
    return f"%COALESCE({json.dumps({'operators': listed}, separators=(',', ':'))})%"


_CLUSTER_HOST: Final = ("METADATA", "CLUSTER:istio:host")
_SOURCE: Final[Mapping[str, str]] = {
    "reporter": "source",
    "source_principal": "%UPSTREAM_LOCAL_URI_SAN%",
    "destination_principal": "%UPSTREAM_PEER_URI_SAN%",
    "connection_security_policy": "unknown",  # a client cannot vouch for what the server demanded
    PEER_LABEL: f"%UPSTREAM_METADATA(istio:{ENDPOINT_KEY})%",
    "destination_service": "%METADATA(CLUSTER:istio:host)%",
    "destination_service_name": "%METADATA(CLUSTER:istio:service_name)%",
    "destination_service_namespace": "%METADATA(CLUSTER:istio:service_namespace)%",
}
_DESTINATION: Final[Mapping[str, str]] = {
    "reporter": "destination",
    # Of the filter chain, not of the cluster: so connections and requests that are refused have their labels too.
    "destination_service": "%METADATA(LISTENER_FILTER_CHAIN:istio:host)%",
    "destination_service_name": "%METADATA(LISTENER_FILTER_CHAIN:istio:service_name)%",
    "destination_service_namespace": "%METADATA(LISTENER_FILTER_CHAIN:istio:service_namespace)%",
}
_MUTUAL_TLS: Final[Mapping[str, str]] = {
    **_DESTINATION,
    "source_principal": "%DOWNSTREAM_PEER_URI_SAN%",
    "destination_principal": "%DOWNSTREAM_LOCAL_URI_SAN%",
    "connection_security_policy": "mutual_tls",
}
_PLAIN: Final[Mapping[str, str]] = {**_DESTINATION, "connection_security_policy": "none"}

# What sidecars call services outside the registry is what the request calls them. At a gateway that is any stranger's.
OUTBOUND_LABELS: Final = {
    **_SOURCE,
    "destination_service": coalesce(_CLUSTER_HOST, ("REQ", ":authority"), longest=MAX_HOST),
    # A request that the mesh lets out nowhere reaches no cluster: its route says so.
    "destination_service_name": coalesce(
        ("METADATA", "CLUSTER:istio:service_name"), ("METADATA", "ROUTE:istio:service_name")
    ),
}
GATEWAY_LABELS: Final = _SOURCE
OUTBOUND_TCP_LABELS: Final = _SOURCE
INBOUND_LABELS: Final[Mapping[bool, Mapping[str, str]]] = {
    True: {**_MUTUAL_TLS, PEER_LABEL: f"%DYNAMIC_METADATA({PEER_NAMESPACE}:{PEER_KEY}):{MAX_PEER}%"},
    False: _PLAIN,
}
# Stock Envoy exchanges nothing before TCP's own bytes: the certificate is all there is.
INBOUND_TCP_LABELS: Final[Mapping[bool, Mapping[str, str]]] = {True: _MUTUAL_TLS, False: _PLAIN}

HTTP_LABELS: Final[Mapping[str, str]] = {
    "request_protocol": "http",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
}
GRPC_LABELS: Final[Mapping[str, str]] = {
    **HTTP_LABELS,
    "request_protocol": "grpc",
    "grpc_response_status": "%GRPC_STATUS_NUMBER%",
}
TCP_LABELS: Final[Mapping[str, str]] = {"request_protocol": "tcp", "response_flags": "%RESPONSE_FLAGS%"}
