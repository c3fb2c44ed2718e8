"""Build the listeners of gateways.

In:  one `GatewayListenerInput`, its servers merged already.
Out: one `envoy.config.listener.v3.Listener`.
Rules: Istio `Gateway`, docs/api/translation.md "Gateways".
"""

from __future__ import annotations

from collections.abc import Iterator

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener

from lateen.pilot.model.values import GatewayListenerInput, GatewayServer
from lateen.pilot.translate.access_logs import listener_loggers
from lateen.pilot.translate.chains import TLS_INSPECTOR, build_chain
from lateen.pilot.translate.http_manager import gateway_manager
from lateen.pilot.translate.names import listener_name
from lateen.pilot.translate.parts import address
from lateen.pilot.translate.tcp import build_tcp_chain

__all__ = ["build_gateway_listener"]


def build_gateway_listener(inp: GatewayListenerInput) -> Listener:
    """Return the listener for one address and port of a gateway. Same input, same bytes.

    TLS is not ended here: `GatewayServer.tls` is not read, and TLS connections pass on by the server name they ask for.
    """
    name = listener_name(inp.bind, inp.port)
    chains = [chain for server in inp.servers for chain in _chains(server, inp, name)]
    by_name = any(route.sni for server in inp.servers for route in server.tcp)
    return Listener(
        name=name,
        address=address(inp.bind, inp.port),
        traffic_direction=TrafficDirection.OUTBOUND,
        filter_chains=chains,
        listener_filters=[TLS_INSPECTOR] if by_name else (),
        access_log=listener_loggers(inp.telemetry.access_log),
    )


def _chains(server: GatewayServer, inp: GatewayListenerInput, name: str) -> Iterator[FilterChain]:
    if server.http_route:
        yield build_chain(
            name=name,
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
        yield build_tcp_chain(route, inp.telemetry)
