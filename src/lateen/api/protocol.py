"""What a port speaks, by its name or what a resource says of it.

Rules: Istio's protocol selection, docs/api/README.md "Protocols".
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["Protocol", "known_protocol", "parse_protocol"]


class Protocol(Enum):
    """The protocol of one port. `AUTO`: nobody said, so it is sniffed."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    HTTPS = "HTTPS"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-WEB"
    HTTP_PROXY = "HTTP_PROXY"
    TCP = "TCP"
    TLS = "TLS"
    MONGO = "MONGO"
    REDIS = "REDIS"
    MYSQL = "MYSQL"
    UDP = "UDP"
    AUTO = ""

    @property
    def is_http(self) -> bool:
        """True for what Envoy handles request by request without terminating TLS."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """True for what is HTTP/2 on the wire."""
        return self in _HTTP2

    @property
    def is_tcp(self) -> bool:
        """True for what Envoy forwards as a stream of bytes, TLS among it."""
        return self in _TCP

    @property
    def is_tls(self) -> bool:
        """True for what is TLS from the client's first byte."""
        return self in _TLS

    @property
    def after_termination(self) -> Protocol:
        """Return what is left once TLS is taken off."""
        return {Protocol.HTTPS: Protocol.HTTP, Protocol.TLS: Protocol.TCP}.get(self, self)


_HTTP: Final = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.HTTP_PROXY, Protocol.GRPC, Protocol.GRPC_WEB})
_HTTP2: Final = frozenset({Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_TCP: Final = frozenset(
    {Protocol.TCP, Protocol.HTTPS, Protocol.TLS, Protocol.MONGO, Protocol.REDIS, Protocol.MYSQL},
)
_TLS: Final = frozenset({Protocol.HTTPS, Protocol.TLS})

_BY_NAME: Final = {protocol.value.lower(): protocol for protocol in Protocol if protocol is not Protocol.AUTO}
_APP_PROTOCOLS: Final = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}
# The server speaks first here, so sniffing would wait for ever: SMTP, DNS, MySQL, MongoDB.
_SERVER_FIRST_PORTS: Final = frozenset({25, 53, 3306, 27017})


def parse_protocol(port_name: str, app_protocol: str, number: int, l4: str) -> Protocol:
    """Return what a service port speaks.

    `app_protocol` decides when it is given, else the name, by its part before the first `-` (`http-admin`); `l4` is
    Kubernetes' `protocol`. For a `port.protocol` of Istio's kinds, pass it as `port_name`.
    """
    if l4.upper() == "UDP":
        return Protocol.UDP
    if app_protocol in _APP_PROTOCOLS:
        return _APP_PROTOCOLS[app_protocol]
    text = (app_protocol or port_name).lower()
    if text.startswith("grpc-web"):
        return Protocol.GRPC_WEB
    found = _BY_NAME.get(text.partition("-")[0])
    if found is not None:
        return found
    return Protocol.TCP if number in _SERVER_FIRST_PORTS else Protocol.AUTO


def known_protocol(text: str) -> Protocol | None:
    """Return the protocol that `text` spells out, in any case; None when it spells none."""
    return _BY_NAME.get(text.lower())
