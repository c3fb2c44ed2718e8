"""Where Envoy finds the labels of the standard metrics.

In:  the side that reports, mutual TLS or not.
Out: field -> format, for `telemetry`, which makes one label of them: `lateen.wire.label_text`. Only what Envoy alone
     knows: the rest is put beside it when metrics are read, in `lateen.agent.standard_metrics`. That is the labels of
     the proxy's own workload, which are the same for every request, and `unknown` where nothing is known. The seven
     labels of a peer are one field, and so are the three of a service: what costs most is to look something up in
     metadata, and Envoy does so for each metric of each request.
Rules: Istio's standard metrics, docs/api/translation.md "Metrics".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Final

from lateen.pilot.translate.peers import ENDPOINT_KEY, PEER_KEY, PEER_NAMESPACE
from lateen.wire.label_text import KNOWN, SERVICE, UNLISTED
from lateen.wire.series import MAX_HOST, MAX_PEER

__all__ = [
    "GATEWAY_LABELS",
    "GRPC_LABELS",
    "HTTP_LABELS",
    "INBOUND_LABELS",
    "INBOUND_TCP_LABELS",
    "OUTBOUND_LABELS",
    "OUTBOUND_TCP_LABELS",
    "TCP_LABELS",
    "coalesce",
    "without",
]

Operator = tuple[str, str] | tuple[str, str, int] | str


def coalesce(*operators: Operator, longest: int = 0) -> str:
    """Return a format: the first of `operators` to have a value.

    An operator is a command, `"UPSTREAM_PEER_URI_SAN"`, or a command and its argument, `("REQ", ":authority")`, or
    these and how many characters are kept of its value. `longest`: the same for all that do not say; 0 is no limit.
    """
    listed = [_operator(operator, longest) for operator in operators]
    return f"%COALESCE({json.dumps({'operators': listed}, separators=(',', ':'))})%"


def _operator(operator: Operator, longest: int) -> str | dict[str, str | int]:
    if isinstance(operator, str):
        return operator
    command, argument, most = operator if len(operator) == 3 else (*operator, longest)
    return {"command": command, "param": argument, **({"max_length": most} if most else {})}


_SERVICE_LABELS: Final = ("destination_service", "destination_service_name", "destination_service_namespace")
_UNLISTED: Final = ("METADATA", "CLUSTER:istio:service_name")
_SOURCE: Final[Mapping[str, str]] = {
    "reporter": "source",
    "source_principal": "%UPSTREAM_LOCAL_URI_SAN%",
    "destination_principal": "%UPSTREAM_PEER_URI_SAN%",
    "connection_security_policy": "unknown",  # a client cannot vouch for what the server demanded
    "peer": f"%UPSTREAM_METADATA(istio:{ENDPOINT_KEY})%",
    SERVICE: "%METADATA(CLUSTER:istio:service)%",
    UNLISTED: "%METADATA(CLUSTER:istio:service_name)%",
}
_DESTINATION: Final[Mapping[str, str]] = {
    "reporter": "destination",
    # Of the filter chain, not of the cluster: so connections and requests that are refused have their labels too.
    SERVICE: f"{KNOWN}%METADATA(LISTENER_FILTER_CHAIN:istio:service)%",
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
    SERVICE: coalesce(("METADATA", "CLUSTER:istio:service"), ("REQ", ":authority", MAX_HOST)),
    # A request that the mesh lets out nowhere reaches no cluster: its route says so.
    UNLISTED: coalesce(_UNLISTED, ("METADATA", "ROUTE:istio:service_name")),
}
GATEWAY_LABELS: Final = _SOURCE
OUTBOUND_TCP_LABELS: Final = _SOURCE
INBOUND_LABELS: Final[Mapping[bool, Mapping[str, str]]] = {
    True: {**_MUTUAL_TLS, "peer": f"%DYNAMIC_METADATA({PEER_NAMESPACE}:{PEER_KEY}):{MAX_PEER}%"},
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


def without(formats: Mapping[str, str], labels: Collection[str]) -> Mapping[str, str]:
    """Return the fields that are wanted where `labels` come from elsewhere: others would only make more series."""
    kept = {field: form for field, form in formats.items() if field == "reporter" or field not in labels}
    if formats["reporter"] == "source" and "destination_service" in labels:
        kept[SERVICE] = _SOURCE[SERVICE]  # not what requests call it
    if all(label in labels for label in _SERVICE_LABELS):
        kept = {field: form for field, form in kept.items() if field not in (SERVICE, UNLISTED)}
    return kept
