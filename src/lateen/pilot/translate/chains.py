"""Pieces that listeners of every kind are made of: filter chains, inspectors, addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.base_pb2 import Metadata, TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import (
    Filter,
    FilterChain,
    FilterChainMatch,
    ListenerFilter,
    ListenerFilterChainMatchPredicate,
)
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.type.v3.range_pb2 import Int32Range

from lateen.pilot.model.values import ConfigRef, ServiceRef
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import config_path, duration, metadata, uint32
from lateen.wire.label_text import pack_service

__all__ = [
    "HTTP_INSPECTOR",
    "ORIGINAL_DST",
    "RAW",
    "TLS",
    "TLS_INSPECTOR",
    "build_chain",
    "cidr",
    "without_inspection",
]

RAW: Final = "raw_buffer"
TLS: Final = "tls"
HANDSHAKE_TIMEOUT: Final = duration(timedelta(seconds=15))

ORIGINAL_DST: Final = ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=pack(OriginalDst()))
# A small first buffer: a client hello seldom needs more, and it is held for every connection.
TLS_INSPECTOR: Final = ListenerFilter(
    name="envoy.filters.listener.tls_inspector",
    typed_config=pack(TlsInspector(initial_read_buffer_size=uint32(512))),
)
HTTP_INSPECTOR: Final = ListenerFilter(name="envoy.filters.listener.http_inspector", typed_config=pack(HttpInspector()))


def build_chain(
    *,
    name: str,
    filters: Sequence[Filter],
    match: FilterChainMatch | None = None,
    transport_socket: TransportSocket | None = None,
    service: ServiceRef | None = None,
    rule: ConfigRef | None = None,
    label: str = "",
) -> FilterChain:
    """Return one filter chain.

    `service` is whose traffic it is: metrics of refused connections name it, too. Without one they say `label`.
    """
    return FilterChain(
        name=name,
        filter_chain_match=match,
        filters=filters,
        transport_socket=transport_socket,
        transport_socket_connect_timeout=HANDSHAKE_TIMEOUT,
        metadata=_metadata(service, rule, label),
    )


def _metadata(service: ServiceRef | None, rule: ConfigRef | None, label: str) -> Metadata | None:
    fields: dict[str, Any] = {}
    if service is not None:
        fields["service"] = pack_service(host=service.hostname, name=service.name, namespace=service.namespace)
    elif label:
        fields["service"] = pack_service(host="", name=label, namespace="")
    if rule is not None:
        fields["config"] = config_path(rule)
    return metadata(istio=fields) if fields else None


def cidr(text: str) -> CidrRange:
    """Return a range for `10.0.0.0/8` or one address."""
    network = ipaddress.ip_network(text, strict=False)
    return CidrRange(address_prefix=str(network.network_address), prefix_len=uint32(network.prefixlen))


def without_inspection(inspector: ListenerFilter, ports: Sequence[int], *, elsewhere: bool) -> ListenerFilter | None:
    """Return `inspector` for a listener of many ports.

    With `elsewhere` false it looks at connections to `ports` only, with true at all others; `None`: at none.
    """
    if not elsewhere:
        if not ports:
            return None
        return _disabled_when(inspector, ListenerFilterChainMatchPredicate(not_match=_any_port(ports)))
    return _disabled_when(inspector, _any_port(ports)) if ports else inspector


def _disabled_when(inspector: ListenerFilter, predicate: ListenerFilterChainMatchPredicate) -> ListenerFilter:
    return ListenerFilter(name=inspector.name, typed_config=inspector.typed_config, filter_disabled=predicate)


def _any_port(ports: Sequence[int]) -> ListenerFilterChainMatchPredicate:
    rules = [_one_port(port) for port in ports]
    if len(rules) == 1:
        return rules[0]
    return ListenerFilterChainMatchPredicate(or_match=ListenerFilterChainMatchPredicate.MatchSet(rules=rules))


def _one_port(port: int) -> ListenerFilterChainMatchPredicate:
    return ListenerFilterChainMatchPredicate(destination_port_range=Int32Range(start=port, end=port + 1))
