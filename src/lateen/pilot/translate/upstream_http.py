"""Which HTTP a cluster speaks upstream, and with what options.

In:  the port's protocol, the connection pool, whether the service is in the mesh.
Out: `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, packed.
Rules: Istio's protocol selection and `connectionPool.http`, docs/api/translation.md "Clusters".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from functools import cache
from typing import Any, Final

from envoy.config.core.v3.protocol_pb2 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    KeepaliveSettings,
    UpstreamHttpProtocolOptions,
)
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as CommonHttpOptions
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import ClusterInput, UpstreamTls
from lateen.pilot.translate.cluster_policy import common_http_options, error_matcher
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration, uint32
from lateen.pilot.translate.peers import SEND_PEER

__all__ = [
    "OPTIONS_KEY",
    "Upstream",
    "checks_host",
    "inbound_upstream",
    "outbound_upstream",
    "plain_options",
    "protocol_options",
    "tls_options",
]

OPTIONS_KEY: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Upstream(Enum):
    """What a cluster speaks to its endpoints."""

    TCP = "tcp"
    H1 = "http/1.1"
    H2 = "http/2"
    CLIENT = "as the client"  # an HTTP port, but whichever version the client uses
    SNIFFED = "as the client, if HTTP at all"
    SNIFFED_H1 = "http/1.1, if HTTP at all"

    @property
    def http(self) -> bool:
        return self is not Upstream.TCP

    @property
    def h2(self) -> bool:
        return self is Upstream.H2

    @property
    def follows_client(self) -> bool:
        return self in (Upstream.CLIENT, Upstream.SNIFFED)

    @property
    def sniffed(self) -> bool:
        """True when servers may be speaking anything, so that a client should tell them what it speaks."""
        return self in (Upstream.SNIFFED, Upstream.SNIFFED_H1)


def outbound_upstream(inp: ClusterInput) -> Upstream:
    """Return what one service port is spoken to in."""
    http = inp.connection_pool.http if inp.connection_pool is not None else None
    if http is not None and http.use_client_protocol:
        return Upstream.SNIFFED if inp.protocol is Protocol.AUTO else Upstream.CLIENT
    upgrade = (http is not None and http.h2_upgrade_policy) or "DEFAULT"
    if inp.protocol.is_http2 or upgrade == "UPGRADE":
        return Upstream.H2
    if inp.protocol.is_http:
        return Upstream.H2 if inp.h2_upgrade and upgrade == "DEFAULT" else Upstream.H1
    if inp.protocol is Protocol.AUTO:
        return Upstream.SNIFFED_H1 if inp.for_gateway else Upstream.SNIFFED
    return Upstream.TCP


def inbound_upstream(protocol: Protocol) -> Upstream:
    """Return what a proxy speaks to its own application."""
    if protocol.is_http2:
        return Upstream.H2
    if protocol is Protocol.AUTO:
        return Upstream.SNIFFED
    return Upstream.H1 if protocol.is_http else Upstream.TCP


def protocol_options(inp: ClusterInput, upstream: Upstream) -> AnyMessage | None:
    """Return an outbound cluster's options; `None` where nothing but TCP goes through it."""
    auto_sni = inp.tls is not None and _names_host(inp.tls)
    if not upstream.http and not auto_sni and common_http_options(inp.connection_pool) is None:
        return None
    if inp.connection_pool is None and not auto_sni and inp.outlier_detection is None:
        return _constant_options(upstream, not inp.mesh_external)
    matcher = error_matcher(inp.outlier_detection)
    return pack(
        HttpProtocolOptions(
            common_http_protocol_options=common_http_options(inp.connection_pool),
            # Without a server name of its own, a connection is for the request's host, and so must the certificate be.
            upstream_http_protocol_options=_by_host(inp.tls, inp.sans) if inp.tls is not None and auto_sni else None,
            outlier_detection=None if matcher is None else HttpProtocolOptions.OutlierDetection(error_matcher=matcher),
            http_filters=() if inp.mesh_external else SEND_PEER,
            **_versions(upstream, inp.connection_pool),
        )
    )


def _names_host(tls: UpstreamTls) -> bool:
    return tls.mode in ("SIMPLE", "MUTUAL") and not tls.sni


def checks_host(tls: UpstreamTls, sans: Sequence[str]) -> bool:
    """Tell whether connections name the host of their request, and its certificate is held against it."""
    return _names_host(tls) and not (tls.insecure_skip_verify or tls.subject_alt_names or sans)


def _by_host(tls: UpstreamTls, sans: Sequence[str]) -> UpstreamHttpProtocolOptions:
    return UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=checks_host(tls, sans))


def tls_options(upstream: Upstream, tls: UpstreamTls) -> AnyMessage:
    """Return the options of a cluster outside that is spoken to in TLS."""
    return pack(
        HttpProtocolOptions(
            upstream_http_protocol_options=_by_host(tls, ()) if _names_host(tls) else None, **_versions(upstream, None)
        )
    )


def plain_options(upstream: Upstream, pool: Any, *, idle: timedelta | None = None) -> AnyMessage:
    """Return the options of a cluster that tells its endpoints nothing: the workload's own and the fixed ones."""
    common = common_http_options(pool)
    if common is None and idle is not None:
        common = CommonHttpOptions(idle_timeout=duration(idle))
    return pack(HttpProtocolOptions(common_http_protocol_options=common, **_versions(upstream, pool)))


@cache  # six kinds, in the mesh or not
def _constant_options(upstream: Upstream, in_mesh: bool) -> AnyMessage:
    return pack(HttpProtocolOptions(http_filters=SEND_PEER if in_mesh else (), **_versions(upstream, None)))


def _versions(upstream: Upstream, pool: Any) -> dict[str, Any]:
    """Return the one field of the `upstream_protocol_options` choice."""
    match upstream:
        case Upstream.H2:
            return {"explicit_http_config": HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=_http2(pool))}
        case Upstream.CLIENT | Upstream.SNIFFED:
            return {
                "use_downstream_protocol_config": HttpProtocolOptions.UseDownstreamHttpConfig(
                    http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=_http2(pool)
                )
            }
        case _:
            return {
                "explicit_http_config": HttpProtocolOptions.ExplicitHttpConfig(
                    http_protocol_options=Http1ProtocolOptions()
                )
            }


def _http2(pool: Any) -> Http2ProtocolOptions:
    http = pool.http if pool is not None else None
    if http is None:
        return Http2ProtocolOptions()
    keepalive = http.http2_keep_alive
    return Http2ProtocolOptions(
        max_concurrent_streams=uint32(http.max_concurrent_streams) if http.max_concurrent_streams else None,
        connection_keepalive=KeepaliveSettings(
            interval=duration(keepalive.interval), timeout=duration(keepalive.timeout)
        )
        if keepalive is not None
        else None,
    )
