"""Build the listeners of gateways.

In:  one `GatewayListenerInput`, its servers merged already.
Out: one `envoy.config.listener.v3.Listener`.
Rules: Istio `Gateway`, docs/api/translation.md "Gateways".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from envoy.config.core.v3.base_pb2 import TrafficDirection, TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch
from envoy.config.listener.v3.listener_pb2 import Listener

from lateen.pilot.model.values import GatewayListenerInput, GatewayServer, TcpRoute
from lateen.pilot.translate.access_logs import listener_loggers
from lateen.pilot.translate.chains import TLS_INSPECTOR, build_chain, cidr
from lateen.pilot.translate.http_manager import gateway_manager
from lateen.pilot.translate.names import listener_name
from lateen.pilot.translate.parts import address
from lateen.pilot.translate.tcp import route_tcp
from lateen.pilot.translate.tls import build_gateway_tls

__all__ = ["build_gateway_listener"]

PASSTHROUGH_MODE: Final = "PASSTHROUGH"  # what the API means by no mode
NOT_TERMINATED: Final = frozenset({PASSTHROUGH_MODE, "AUTO_PASSTHROUGH"})


def build_gateway_listener(inp: GatewayListenerInput) -> Listener:
    """Return the listener for one address and port of a gateway. Same input, same bytes."""
    name = listener_name(inp.bind, inp.port)
    chains = [chain for server in inp.servers for chain in _chains(server, inp, name)]
    by_name = any(chain.filter_chain_match.server_names or chain.HasField("transport_socket") for chain in chains)
    return Listener(
        name=name,
        address=address(inp.bind, inp.port),
        traffic_direction=TrafficDirection.OUTBOUND,
        filter_chains=chains,
        listener_filters=[TLS_INSPECTOR] if by_name else (),
        access_log=listener_loggers(inp.telemetry.access_log),
    )


def _chains(server: GatewayServer, inp: GatewayListenerInput, name: str) -> Iterator[FilterChain]:
    ends_tls = server.tls is not None and (server.tls.mode or PASSTHROUGH_MODE) not in NOT_TERMINATED
    socket = build_gateway_tls(server.tls) if ends_tls else None
    names = () if socket is None or "*" in server.hosts else tuple(sorted(server.hosts))
    if server.http_route:
        yield build_chain(
            name=name,
            match=FilterChainMatch(server_names=names) if names else None,
            transport_socket=socket,
            filters=[
                gateway_manager(
                    name=name,
                    route_name=server.http_route,
                    num_trusted_proxies=inp.num_trusted_proxies,
                    telemetry=inp.telemetry,
                    tracing_percent=inp.tracing_percent,
                )
            ],
        )
    for route in server.tcp:
        yield _tcp_chain(route, names, inp, socket)


def _tcp_chain(
    route: TcpRoute, names: tuple[str, ...], inp: GatewayListenerInput, socket: TransportSocket | None
) -> FilterChain:
    names = route.sni or names
    limited = bool(names or route.subnets)
    return build_chain(
        name=route.stat_prefix,
        match=FilterChainMatch(server_names=names, prefix_ranges=[cidr(text) for text in route.subnets])
        if limited
        else None,
        transport_socket=socket,
        filters=route_tcp(route, inp.telemetry),
        service=route.service,
        rule=route.rule,
    )
