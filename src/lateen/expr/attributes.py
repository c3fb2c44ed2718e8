"""The vocabulary of rules: every attribute that an expression may name, its type, when it is known, what it is.

Names and types are those of Istio's old Mixer, without what only it had; docs/mixer/attributes.md shows this table and
is held to it. An attribute that a request does not have is absent, never empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

__all__ = ["ATTRIBUTES", "BY_NAME", "GROUPS", "ROOTS", "Attribute", "Phase", "Type"]


class Type(Enum):
    """What an expression or an attribute is; the value is CEL's name of it."""

    STRING = "string"
    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    DURATION = "duration"
    TIMESTAMP = "timestamp"
    STRINGS = "map(string, string)"
    STRUCT = "map(string, dyn)"  # JSON
    LIST = "list"
    NULL = "null_type"
    DYN = "dyn"


class Phase(IntEnum):
    """When an attribute is known. What is known earlier is known later."""

    CONNECTION = 1  # once a client is connected: all that a decision about a TCP connection may read
    REQUEST = 2  # once a request's headers are there
    END = 3  # once it is over: reports only


@dataclass(frozen=True, slots=True)
class Attribute:
    """One name. `told` marks what a workload's own proxy says of itself: true of honest proxies, proof of nothing."""

    name: str
    type: Type
    phase: Phase
    meaning: str
    told: bool = False

    @property
    def is_map(self) -> bool:
        return self.type in (Type.STRINGS, Type.STRUCT)


def _peer(side: str, who: str) -> tuple[Attribute, ...]:
    """Return what is known of one end of a connection."""
    return (
        Attribute(f"{side}.ip", Type.STRING, Phase.CONNECTION, f"address of {who}"),
        Attribute(f"{side}.port", Type.INT, Phase.CONNECTION, f"port of {who}"),
        Attribute(f"{side}.principal", Type.STRING, Phase.CONNECTION, f"SPIFFE ID of {who}, proven by its certificate"),
        Attribute(f"{side}.namespace", Type.STRING, Phase.CONNECTION, "namespace that the SPIFFE ID names"),
        Attribute(f"{side}.serviceAccount", Type.STRING, Phase.CONNECTION, "service account that the SPIFFE ID names"),
        Attribute(f"{side}.uid", Type.STRING, Phase.REQUEST, f"id of the proxy of {who}", told=True),
        Attribute(f"{side}.name", Type.STRING, Phase.REQUEST, f"name of the workload of {who}", told=True),
        Attribute(f"{side}.labels", Type.STRINGS, Phase.REQUEST, "labels app and version of that workload", told=True),
        Attribute(f"{side}.workload.name", Type.STRING, Phase.REQUEST, "the workload", told=True),
        Attribute(f"{side}.workload.namespace", Type.STRING, Phase.REQUEST, "namespace of the workload", told=True),
    )


ATTRIBUTES: Final[tuple[Attribute, ...]] = (
    *_peer("source", "the client"),
    *_peer("destination", "the server"),
    Attribute("destination.service.host", Type.STRING, Phase.CONNECTION, "host of the service that is reached"),
    Attribute("destination.service.name", Type.STRING, Phase.CONNECTION, "its short name"),
    Attribute("destination.service.namespace", Type.STRING, Phase.CONNECTION, "its namespace"),
    Attribute("origin.ip", Type.STRING, Phase.REQUEST, "address of the client before trusted proxies"),
    Attribute("connection.id", Type.STRING, Phase.CONNECTION, "number of the connection at its proxy"),
    Attribute("connection.event", Type.STRING, Phase.END, "`close`: connections are reported once, when they end"),
    Attribute("connection.mtls", Type.BOOL, Phase.CONNECTION, "whether the client showed a certificate"),
    Attribute("connection.requested_server_name", Type.STRING, Phase.CONNECTION, "server name of the TLS handshake"),
    Attribute("connection.received.bytes", Type.INT, Phase.END, "bytes from the client"),
    Attribute("connection.sent.bytes", Type.INT, Phase.END, "bytes to the client"),
    Attribute("connection.duration", Type.DURATION, Phase.END, "how long it stood"),
    Attribute(
        "request.headers", Type.STRINGS, Phase.REQUEST, "headers: names in lower case, repeated ones joined by ,"
    ),
    Attribute("request.id", Type.STRING, Phase.REQUEST, "x-request-id"),
    Attribute("request.path", Type.STRING, Phase.REQUEST, "path with its query"),
    Attribute("request.url_path", Type.STRING, Phase.REQUEST, "path without its query"),
    Attribute("request.query_params", Type.STRINGS, Phase.REQUEST, "query, decoded; the first of repeated names"),
    Attribute("request.host", Type.STRING, Phase.REQUEST, "authority, with a port if it was written"),
    Attribute("request.method", Type.STRING, Phase.REQUEST, "GET, POST, ..."),
    Attribute("request.scheme", Type.STRING, Phase.REQUEST, "http or https"),
    Attribute("request.referer", Type.STRING, Phase.REQUEST, "referer"),
    Attribute("request.useragent", Type.STRING, Phase.REQUEST, "user-agent"),
    Attribute("request.size", Type.INT, Phase.REQUEST, "bytes of the body: announced before, counted after"),
    Attribute("request.total_size", Type.INT, Phase.END, "bytes of headers and body"),
    Attribute("request.time", Type.TIMESTAMP, Phase.REQUEST, "when it began"),
    Attribute("request.descriptors", Type.STRINGS, Phase.REQUEST, "entries of a rate limit descriptor"),
    Attribute("request.auth.principal", Type.STRING, Phase.REQUEST, "issuer/subject of the verified token"),
    Attribute("request.auth.audiences", Type.STRING, Phase.REQUEST, "audiences of the token, joined by ,"),
    Attribute("request.auth.presenter", Type.STRING, Phase.REQUEST, "azp of the token"),
    Attribute("request.auth.claims", Type.STRUCT, Phase.REQUEST, "all claims of the verified token"),
    Attribute("response.headers", Type.STRINGS, Phase.END, "headers of the answer"),
    Attribute("response.code", Type.INT, Phase.END, "HTTP status"),
    Attribute("response.size", Type.INT, Phase.END, "bytes of the body"),
    Attribute("response.total_size", Type.INT, Phase.END, "bytes of headers and body"),
    Attribute("response.duration", Type.DURATION, Phase.END, "from the first byte in to the last byte out"),
    Attribute("response.time", Type.TIMESTAMP, Phase.END, "when the answer was over"),
    Attribute("response.grpc_status", Type.STRING, Phase.END, "number of the gRPC status"),
    Attribute("response.grpc_message", Type.STRING, Phase.END, "message of the gRPC status"),
    Attribute("response.flags", Type.STRING, Phase.END, "Envoy's response flags, `-` for none"),
    Attribute("context.protocol", Type.STRING, Phase.CONNECTION, "http, grpc or tcp"),
    Attribute("context.time", Type.TIMESTAMP, Phase.CONNECTION, "when this was evaluated"),
    Attribute("context.reporter.kind", Type.STRING, Phase.CONNECTION, "inbound at sidecars, outbound at gateways"),
    Attribute("context.reporter.uid", Type.STRING, Phase.CONNECTION, "id of the proxy that asks or reports"),
    Attribute("context.proxy_error_code", Type.STRING, Phase.END, "response.flags by Mixer's name"),
    Attribute("api.service", Type.STRING, Phase.CONNECTION, "destination.service.host by Mixer's name"),
    Attribute("api.operation", Type.STRING, Phase.REQUEST, "method and url_path: `GET /items`"),
    Attribute("api.protocol", Type.STRING, Phase.CONNECTION, "context.protocol by Mixer's name"),
)

BY_NAME: Final[dict[str, Attribute]] = {attribute.name: attribute for attribute in ATTRIBUTES}

# Every dotted name that holds attributes: "source", "source.workload".
GROUPS: Final[frozenset[str]] = frozenset(
    ".".join(parts[:depth])
    for parts in (attribute.name.split(".") for attribute in ATTRIBUTES)
    for depth in range(1, len(parts))
)
ROOTS: Final[tuple[str, ...]] = tuple(dict.fromkeys(attribute.name.partition(".")[0] for attribute in ATTRIBUTES))
