"""Build the listeners for what leaves a workload.

In:  one `OutboundListenerInput`, `VirtualOutboundInput` or `HttpProxyListenerInput`.
Out: one `envoy.config.listener.v3.Listener`.
Rules: Istio's outbound capture, docs/api/translation.md "Outbound listeners".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.values import (
    ALLOW_ANY,
    ALLOW_ANY_DYNAMIC_DNS,
    Cluster,
    HttpProxyListenerInput,
    OutboundListenerInput,
    RouteConfigInput,
    VirtualOutboundInput,
)
from lateen.pilot.model.values_telemetry import Telemetry
from lateen.pilot.translate.access_logs import listener_logs
from lateen.pilot.translate.chains import (
    HTTP_INSPECTOR,
    RAW,
    TLS_INSPECTOR,
    build_chain,
)
from lateen.pilot.translate.http_manager import outbound_manager
from lateen.pilot.translate.names import BLACK_HOLE, PASSTHROUGH, VIRTUAL_OUTBOUND, WILDCARDS, listener_name
from lateen.pilot.translate.parts import ZERO, address, duration, uint32
from lateen.pilot.translate.routes import build_route_config
from lateen.pilot.translate.tcp import black_hole, build_tcp_chain, outbound_tcp
from lateen.pilot.translate.tls import HTTP_ALPN

__all__ = ["build_http_proxy_listener", "build_outbound_listener", "build_virtual_outbound"]

WILDCARD: Final = "0.0.0.0"  # noqa: S104 - captured connections arrive there, inside a workload's own namespace
TRUE: Final = BoolValue(value=True)
FALSE: Final = BoolValue(value=False)
_ANY_HOST: Final = RouteConfigInput(name="allow_any_dynamic_dns", virtual_hosts=(), catch_all=ALLOW_ANY_DYNAMIC_DNS)
ONE_AT_A_TIME: Final = uint32(1)  # connections accepted per wake-up: spreads them over Envoy's threads


def build_outbound_listener(inp: OutboundListenerInput) -> Listener:
    """Return the listener for one destination address and port. Same input, same bytes.

    A chain that matches everything becomes the default chain when there are others; without any, connections that no
    chain takes go where the client dialled, or nowhere, as `inp.policy` says.
    """
    name = listener_name(inp.bind, inp.port)
    sniffs = bool(inp.http_route) and (bool(inp.tcp) or inp.bind in WILDCARDS)
    matched = [route for route in inp.tcp if route.limited]
    unmatched = [route for route in inp.tcp if not route.limited]
    chains = [
        *(build_tcp_chain(route, inp.telemetry) for route in matched),
        *([_http_chain(inp, name, sniffs=sniffs)] if inp.http_route else []),
    ]
    default: FilterChain | None = None
    if unmatched and not chains:
        chains = [build_tcp_chain(unmatched[0], inp.telemetry)]
    elif unmatched:
        default = build_tcp_chain(unmatched[0], inp.telemetry)
    elif matched or sniffs:
        default = _catch_all("PassthroughFilterChain", inp.policy, inp.egress_proxy, inp.telemetry)
    inspectors = _inspectors(sni=any(route.sni for route in inp.tcp), http=sniffs)
    return Listener(
        name=name,
        address=address(inp.bind, inp.port),
        additional_addresses=[AdditionalAddress(address=address(extra, inp.port)) for extra in inp.extra_addresses],
        bind_to_port=None if inp.bind_to_port else FALSE,
        # Of two proxies of one machine that want one port the second shall fail, not take half of the first one's.
        enable_reuse_port=FALSE if inp.bind_to_port else None,
        traffic_direction=TrafficDirection.OUTBOUND,
        filter_chains=chains,
        default_filter_chain=default,
        listener_filters=inspectors,
        listener_filters_timeout=duration(inp.sniff_timeout) if sniffs else ZERO,
        continue_on_listener_filters_timeout=True,
    )


def _inspectors(*, sni: bool, http: bool) -> Sequence[ListenerFilter]:
    return [*([TLS_INSPECTOR] if sni else []), *([HTTP_INSPECTOR] if http else [])]


def _http_chain(inp: OutboundListenerInput, name: str, *, sniffs: bool) -> FilterChain:
    return build_chain(
        name=f"{name}_http" if sniffs else name,
        match=FilterChainMatch(transport_protocol=RAW, application_protocols=HTTP_ALPN) if sniffs else None,
        filters=[
            outbound_manager(
                name=name,
                route_name=inp.http_route,
                telemetry=inp.telemetry,
                dynamic_dns=inp.dynamic_dns,
            )
        ],
    )


def _catch_all(name: str, policy: str, egress_proxy: Cluster | None, telemetry: Telemetry) -> FilterChain:
    # A connection that is no HTTP names no host to look up, so it goes where it was dialled under both.
    passes = policy in (ALLOW_ANY, ALLOW_ANY_DYNAMIC_DNS)
    cluster = (egress_proxy or PASSTHROUGH) if passes else BLACK_HOLE
    return build_chain(name=name, filters=[outbound_tcp(cluster, telemetry)])


def build_virtual_outbound(inp: VirtualOutboundInput) -> Listener:
    """Return `virtualOutbound`: it takes every captured connection and hands it to the listener of its destination.

    What no listener is for goes by `inp.policy`.
    """
    loop = build_chain(
        name=f"{VIRTUAL_OUTBOUND}-blackhole",
        match=FilterChainMatch(destination_port=uint32(inp.port)),
        filters=[black_hole(inp.telemetry)],
    )
    rest = _catch_all(f"{VIRTUAL_OUTBOUND}-catchall-tcp", inp.policy, inp.egress_proxy, inp.telemetry)
    named = (
        [
            build_chain(
                name=f"{VIRTUAL_OUTBOUND}-catchall-tcp-http",
                match=FilterChainMatch(application_protocols=HTTP_ALPN),
                filters=[
                    outbound_manager(
                        name=VIRTUAL_OUTBOUND,
                        route=build_route_config(_ANY_HOST),
                        telemetry=inp.telemetry,
                        dynamic_dns=inp.dynamic_dns,
                    )
                ],
            )
        ]
        if inp.policy == ALLOW_ANY_DYNAMIC_DNS
        else []
    )
    return Listener(
        name=VIRTUAL_OUTBOUND,
        address=address(WILDCARD, inp.port),
        traffic_direction=TrafficDirection.OUTBOUND,
        use_original_dst=TRUE,  # deprecated without a successor; the bootstrap allows it by a runtime flag
        filter_chains=[loop, *named, rest],
        listener_filters=[HTTP_INSPECTOR] if named else (),
        listener_filters_timeout=duration(inp.sniff_timeout) if named else None,
        continue_on_listener_filters_timeout=bool(named),
        max_connections_to_accept_per_socket_event=ONE_AT_A_TIME,
        access_log=listener_logs(inp.telemetry),
    )


def build_http_proxy_listener(inp: HttpProxyListenerInput) -> Listener:
    """Return the listener that applications use as their HTTP proxy."""
    name = listener_name(inp.bind, inp.port)
    return Listener(
        name=name,
        address=address(inp.bind, inp.port),
        enable_reuse_port=FALSE,
        traffic_direction=TrafficDirection.OUTBOUND,
        filter_chains=[
            build_chain(
                name=name,
                filters=[
                    outbound_manager(
                        name=name,
                        route_name=inp.route,
                        telemetry=inp.telemetry,
                        dynamic_dns=inp.dynamic_dns,
                    )
                ],
            )
        ],
    )
