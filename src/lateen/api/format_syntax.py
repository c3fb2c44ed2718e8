"""Envoy's substitution operators, `%NAME(argument):length%`: which there are, and what each takes. Pure.

Envoy refuses a whole listener or route configuration for one operator that it does not know, or that is given what it
does not take. The tables are what Envoy 1.40 takes where header values and access logs are concerned; each was tried.
"""

from __future__ import annotations

import json
import re
from typing import Final

from lateen.api.suggest import nearest

__all__ = ["operator_fault"]

# Take neither an argument nor a length.
_PLAIN: Final = frozenset(
    """
    ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_RETRANSMITTED BYTES_SENT CONNECTION_ID CONNECTION_TERMINATION_DETAILS
    CUSTOM_FLAGS DURATION FILTER_CHAIN_NAME GRPC_STATUS_NUMBER HOSTNAME LISTENER_NAME LOCAL_REPLY_BODY
    PACKETS_RETRANSMITTED PROTOCOL REQUESTED_SERVER_NAME REQUEST_DURATION REQUEST_HEADERS_BYTES REQUEST_TX_DURATION
    RESPONSE_CODE RESPONSE_DURATION RESPONSE_FLAGS RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES
    RESPONSE_TX_DURATION ROUNDTRIP_DURATION ROUTE_NAME ROUTE_RESOLUTION_COUNT ROUTE_RESOLUTION_TIME_US SPAN_ID STREAM_ID
    TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID UNIQUE_ID VIRTUAL_CLUSTER_NAME
    DOWNSTREAM_CX_RTT DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT
    DOWNSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID
    DOWNSTREAM_DIRECT_LOCAL_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_PORT
    DOWNSTREAM_HANDSHAKE_DURATION DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_LOCAL_ADDRESS
    DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_LOCAL_DNS_SAN
    DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_LOCAL_PORT
    DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_CERT DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1
    DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_DNS_SAN
    DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_IP_SAN
    DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256 DOWNSTREAM_PEER_ISSUER_SERIAL
    DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_URI_SAN
    DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_PORT DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_GROUP
    DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_VERSION DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_WIRE_BYTES_RECEIVED
    DOWNSTREAM_WIRE_BYTES_SENT
    UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID UPSTREAM_CONNECTION_IDS_ATTEMPTED
    UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED
    UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT UPSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_HEADER_BYTES_RECEIVED
    UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HOST UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT
    UPSTREAM_HOST_NAME UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT
    UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_CLOSE_REASON UPSTREAM_LOCAL_DNS_SAN
    UPSTREAM_LOCAL_IP_SAN UPSTREAM_LOCAL_PORT UPSTREAM_LOCAL_URI_SAN UPSTREAM_PEER_CERT UPSTREAM_PEER_DNS_SAN
    UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN UPSTREAM_PROTOCOL
    UPSTREAM_REMOTE_ADDRESS UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_REMOTE_PORT UPSTREAM_REQUEST_ATTEMPT_COUNT
    UPSTREAM_SERVER_NAME UPSTREAM_TLS_CIPHER UPSTREAM_TLS_GROUP UPSTREAM_TLS_SESSION_ID UPSTREAM_TLS_VERSION
    UPSTREAM_TRANSPORT_FAILURE_REASON UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT
    """.split()  # noqa: SIM905  # people read it as a table
)
# May have an argument of any text, no length: formats of times, lengths of prefixes.
_FREE: Final = frozenset(
    """
    DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT
    DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_PEER_CERT_V_END DOWNSTREAM_PEER_CERT_V_START
    DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT EMIT_TIME EMIT_TIME_LOCAL RESPONSE_CODE_DETAILS START_TIME START_TIME_LOCAL
    UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_PEER_CERT_V_END UPSTREAM_PEER_CERT_V_START
    UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT
    """.split()  # noqa: SIM905  # people read it as a table
)
# Name a header, or two with "?" between, and may have a length.
_HEADERS: Final = frozenset(
    ("REQ", "REQUEST_HEADER", "RESP", "RESPONSE_HEADER", "RESPONSE_TRAILER", "STREAM_INFO_REQ", "TRAILER")
)
# Must have an argument of any text. True: may have a length, too.
_NAMED: Final = {
    "CLUSTER_METADATA": False,
    "UPSTREAM_METADATA": False,
    "COMMON_DURATION": False,
    "DYNAMIC_METADATA": True,
    "ENVIRONMENT": True,
    "QUERY_PARAM": True,
    "PER_REQUEST_STATE": False,
    "CEL": True,
    "COALESCE": True,
    "FILTER_STATE": True,
    "UPSTREAM_FILTER_STATE": True,
    "METADATA": True,
    "XFCC_VALUE": True,
}
# May have one of these for an argument. True: may have a length, too.
_CHOICES: Final = {
    "GRPC_STATUS": (("CAMEL_STRING", "SNAKE_STRING", "NUMBER"), False),
    "PATH": (("WQ", "NQ"), True),
    "QUERY_PARAMS": (("ORIG", "DECODED"), True),
}
_METADATA: Final = (
    "CLUSTER",
    "DYNAMIC",
    "LISTENER",
    "LISTENER_FILTER_CHAIN",
    "ROUTE",
    "UPSTREAM_HOST",
    "VIRTUAL_HOST",
)
_XFCC: Final = ("by", "hash", "cert", "chain", "subject", "uri", "dns")
_STATE_FORMS: Final = ("PLAIN", "TYPED", "FIELD")
_HEADER: Final = re.compile(r":?[A-Za-z0-9!#$&'*+.^_`|~-]*")
_NAMES: Final = _PLAIN | _FREE | _HEADERS | _NAMED.keys() | _CHOICES.keys()


def operator_fault(name: str, argument: str | None, *, length: bool) -> str | None:
    """Return what is wrong with one operator, None when Envoy takes it. An `argument` "" is as none."""
    if name not in _NAMES:
        near = nearest(name, _NAMES)
        hint = f", did you mean %{near}%?" if near is not None else ""
        return f"has %{name}%, which is no operator of Envoy{hint}"
    if length and not (name in _HEADERS or _NAMED.get(name) or (name in _CHOICES and _CHOICES[name][1])):
        return f"has a length for %{name}%, which takes none"
    if not argument:
        return f"must have an argument for %{name}%, as in %{name}(x)%" if name in _HEADERS or name in _NAMED else None
    if "\n" in argument:
        return f"must not have a line break in the argument of %{name}%"
    if name in _PLAIN:
        return f"has an argument for %{name}%, which takes none"
    if name in _HEADERS:
        return _header_fault(name, argument)
    return _argument_fault(name, argument)


def _header_fault(name: str, argument: str) -> str | None:
    headers = argument.split("?")
    if len(headers) > 2:
        return f'must name at most two headers for %{name}%, got "{argument}"'
    if not all(map(_HEADER.fullmatch, headers)):
        return f'must name a header for %{name}%, got "{argument}"'
    return None


def _argument_fault(name: str, argument: str) -> str | None:
    first, _, rest = argument.partition(":")
    if name in _CHOICES and first not in _CHOICES[name][0]:
        return _wanted(name, _CHOICES[name][0], first)
    if name == "METADATA" and first not in _METADATA:
        return _wanted(name, _METADATA, first)
    if name == "XFCC_VALUE" and argument.lower() not in _XFCC:
        return _wanted(name, _XFCC, argument)
    if name == "COMMON_DURATION" and not rest:
        return f'must have two points in time for %{name}%, as in DS_RX_BEG:DS_RX_END, got "{argument}"'
    if name in ("FILTER_STATE", "UPSTREAM_FILTER_STATE", "PER_REQUEST_STATE"):
        form, _, field = rest.partition(":")
        if rest and form not in _STATE_FORMS:
            return _wanted(name, _STATE_FORMS, form)
        if form == "FIELD" and not field:
            return f'must name the field after FIELD for %{name}%, got "{argument}"'
    if name == "COALESCE":
        try:
            operators = json.loads(argument)
        except ValueError:
            operators = None
        if not isinstance(operators, dict) or not operators.get("operators"):
            return f'must be JSON with a list of operators for %{name}%, got "{argument}"'
    return None


def _wanted(name: str, known: tuple[str, ...], got: str) -> str:
    return f'must have one of {", ".join(known)} for %{name}%, got "{got}"'
