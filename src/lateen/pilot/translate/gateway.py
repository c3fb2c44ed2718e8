"""Build the listeners of gateways.

In:  one `GatewayListenerInput`, its servers merged already.
Out: one `envoy.config.listener.v3.Listener`, of TCP or of QUIC.
Rules: Istio `Gateway`, docs/api/translation.md "Gateways".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.config.listener.v3.quic_config_pb2 import QuicProtocolOptions
from envoy.config.listener.v3.udp_listener_config_pb2 import UdpListenerConfig
from envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2 import ProxyProtocol

from lateen.pilot.model.values import GatewayListenerInput, GatewayServer
from lateen.pilot.translate.access_logs import listener_logs
from lateen.pilot.translate.authz import Vouching, asks_server_name, vouching_of
from lateen.pilot.translate.chains import TLS_INSPECTOR, build_chain
from lateen.pilot.translate.guards import Guards, build_guards
from lateen.pilot.translate.http_manager import gateway_manager
from lateen.pilot.translate.mixer.called import http_reports, local_replies, tcp_reports
from lateen.pilot.translate.names import listener_name
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import address
from lateen.pilot.translate.server_tls import build_quic_socket, build_server_socket
from lateen.pilot.translate.tcp import build_tcp_chain

__all__ = ["build_gateway_listener"]

_PROXY_PROTOCOL: Final = ListenerFilter(
    name="envoy.filters.listener.proxy_protocol", typed_config=pack(ProxyProtocol())
)


def build_gateway_listener(inp: GatewayListenerInput) -> Listener:
    """Return the listener for one address and port of a gateway. Same input, same bytes."""
    if inp.quic:
        return _quic_listener(inp)
    name = listener_name(inp.bind, inp.port)
    guards = _guards(inp)
    chains = [chain for server in inp.servers for chain in _chains(server, inp, name, guards)]
    # The hello is read where chains are told apart by what it says, or a policy asks about it.
    inspected = any(
        chain.filter_chain_match.server_names or chain.filter_chain_match.application_protocols for chain in chains
    ) or (asks_server_name(inp.authorization) and any(server.tls is not None for server in inp.servers))
    return Listener(
        name=name,
        address=address(inp.bind, inp.port),
        additional_addresses=[AdditionalAddress(address=address(inp.bind, port)) for port in inp.also],
        traffic_direction=TrafficDirection.OUTBOUND,
        filter_chains=chains,
        listener_filters=[
            *([_PROXY_PROTOCOL] if inp.proxy_protocol else []),
            *([TLS_INSPECTOR] if inspected else []),
        ],
        access_log=listener_logs(inp.telemetry),
    )


def _quic_listener(inp: GatewayListenerInput) -> Listener:
    name = f"udp_{listener_name(inp.bind, inp.port)}"
    guards = _guards(inp)
    return Listener(
        name=name,
        address=_udp(inp.bind, inp.port),
        additional_addresses=[AdditionalAddress(address=_udp(inp.bind, port)) for port in inp.also],
        traffic_direction=TrafficDirection.OUTBOUND,
        udp_listener_config=UdpListenerConfig(quic_options=QuicProtocolOptions()),
        filter_chains=[chain for server in inp.servers for chain in _chains(server, inp, name, guards)],
        access_log=listener_logs(inp.telemetry),
    )


def _udp(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(protocol=SocketAddress.UDP, address=host, port_value=port))


def _guards(inp: GatewayListenerInput) -> Mapping[Vouching, Guards]:
    needed = {vouching_of(server.tls) for server in inp.servers}
    return {vouching: build_guards(inp.request_auth, inp.authorization, vouching, inp.mixer) for vouching in needed}


def _chains(
    server: GatewayServer, inp: GatewayListenerInput, name: str, by_vouching: Mapping[Vouching, Guards]
) -> Iterator[FilterChain]:
    vouching = vouching_of(server.tls)
    guards = by_vouching[vouching]
    mixer = replace(inp.mixer, vouched=vouching is Vouching.MESH)
    socket = None
    if server.tls is not None:
        socket = build_quic_socket(server.tls) if inp.quic else build_server_socket(server.tls)
    if server.http_route:
        yield build_chain(
            name=f"{name}_{server.sni[0]}" if server.sni else name,
            match=FilterChainMatch(server_names=server.sni) if server.sni else None,
            transport_socket=socket,
            filters=[
                gateway_manager(
                    name=server.name or name,
                    route_name=server.http_route,
                    num_trusted_proxies=inp.num_trusted_proxies,
                    forward_client_cert=inp.forward_client_cert,
                    telemetry=inp.telemetry,
                    http3=inp.quic,
                    dynamic_dns=inp.dynamic_dns,
                    guards=guards.http,
                    spelling=inp.spelling,
                    early=guards.early,
                    reports=http_reports(mixer, None),
                    local_replies=local_replies(mixer),
                )
            ],
        )
    for route in server.tcp:
        yield build_tcp_chain(
            route,
            inp.telemetry,
            sni=server.sni or route.sni,
            transport_socket=socket,
            guards=guards.tcp,
            reports=tcp_reports(mixer, route.service),
        )
