"""Build the listeners for what reaches a workload.

In:  one `InboundListenerInput`.
Out: `virtualInbound`, or one listener a port where nothing is captured.
Rules: Istio's inbound capture, docs/api/translation.md "Inbound listeners". The table of what each mutual TLS mode and
kind of port accepts is `_ROWS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TrafficDirection, TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Decorator, Route, RouteAction, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import (
    NO_TCP_LIMITS,
    InboundListenerInput,
    InboundPort,
    MtlsMode,
    ServerTls,
    ServiceRef,
    TcpLimits,
)
from lateen.pilot.translate.access_logs import listener_logs
from lateen.pilot.translate.actions import NO_TIMEOUT
from lateen.pilot.translate.authz import vouching_of
from lateen.pilot.translate.chains import (
    HTTP_INSPECTOR,
    ORIGINAL_DST,
    RAW,
    TLS,
    TLS_INSPECTOR,
    build_chain,
    without_inspection,
)
from lateen.pilot.translate.clusters import build_inbound_cluster
from lateen.pilot.translate.grpc_messages import without_messages
from lateen.pilot.translate.guards import Guards, build_guards
from lateen.pilot.translate.http_manager import inbound_manager
from lateen.pilot.translate.matches import EVERYTHING
from lateen.pilot.translate.mixer.called import build_mixer_cluster, http_reports, local_replies, tcp_reports
from lateen.pilot.translate.names import (
    INBOUND_PASSTHROUGH,
    VIRTUAL_INBOUND,
    inbound_cluster_name,
    inbound_vhost_name,
    listener_name,
)
from lateen.pilot.translate.parts import address, duration, uint32
from lateen.pilot.translate.retries import build_inbound_retry_policy
from lateen.pilot.translate.server_tls import build_server_socket
from lateen.pilot.translate.tcp import black_hole, inbound_tcp
from lateen.pilot.translate.tls import ALL_ISTIO_ALPN, HTTP_ALPN, MESH_HTTP_ALPN, TCP_ALPN, build_mesh_downstream

__all__ = ["build_inbound_clusters", "build_inbound_listeners"]

WILDCARD: Final = "0.0.0.0"  # noqa: S104 - captured connections arrive there, inside a workload's own namespace
FALSE: Final = BoolValue(value=False)


class Kind(Enum):
    """How a port is handled."""

    HTTP = "http"
    TCP = "tcp"
    AUTO = "auto"


class Handler(Enum):
    HTTP = "http"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class _Row:
    """One filter chain: what it matches, who handles it, and whether the chain ends mutual TLS itself."""

    transport: str
    alpn: tuple[str, ...]
    handler: Handler
    mtls: bool


def _tls(handler: Handler, alpn: tuple[str, ...] = ()) -> _Row:
    return _Row(TLS, alpn, handler, mtls=True)


def _plain(handler: Handler, alpn: tuple[str, ...] = ()) -> _Row:
    return _Row(RAW, alpn, handler, mtls=False)


# TLS that is not the mesh's is the application's own: it passes through unopened.
_FOREIGN_TLS: Final = _Row(TLS, (), Handler.TCP, mtls=False)

# Envoy takes the chain with the most specific match, so the order within a row of chains means nothing.
_ROWS: Final[dict[tuple[MtlsMode, Kind], tuple[_Row, ...]]] = {
    (MtlsMode.PERMISSIVE, Kind.AUTO): (
        _tls(Handler.HTTP, MESH_HTTP_ALPN),
        _plain(Handler.HTTP, HTTP_ALPN),
        _tls(Handler.TCP, TCP_ALPN),
        _plain(Handler.TCP),
        _FOREIGN_TLS,
    ),
    (MtlsMode.PERMISSIVE, Kind.HTTP): (_tls(Handler.HTTP, ALL_ISTIO_ALPN), _plain(Handler.HTTP)),
    (MtlsMode.PERMISSIVE, Kind.TCP): (_tls(Handler.TCP, ALL_ISTIO_ALPN), _FOREIGN_TLS, _plain(Handler.TCP)),
    (MtlsMode.STRICT, Kind.AUTO): (_tls(Handler.HTTP, MESH_HTTP_ALPN), _tls(Handler.TCP)),
    (MtlsMode.STRICT, Kind.HTTP): (_tls(Handler.HTTP),),
    (MtlsMode.STRICT, Kind.TCP): (_tls(Handler.TCP),),
    (MtlsMode.DISABLE, Kind.AUTO): (_plain(Handler.HTTP, HTTP_ALPN), _plain(Handler.TCP)),
    (MtlsMode.DISABLE, Kind.HTTP): (_plain(Handler.HTTP),),
    (MtlsMode.DISABLE, Kind.TCP): (_plain(Handler.TCP),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What the chains of one port, or of all other ports, have in common."""

    name: str
    http_name: str  # of its HTTP chains
    port: int  # 0: any
    cluster: str
    vhost: str
    operation: str
    mode: MtlsMode
    protocol: Protocol
    service: ServiceRef | None
    limits: TcpLimits = NO_TCP_LIMITS
    tls: ServerTls | None = None

    @property
    def kind(self) -> Kind:
        if self.protocol is Protocol.AUTO:
            return Kind.AUTO
        return Kind.HTTP if self.protocol.is_http else Kind.TCP

    @property
    def rows(self) -> tuple[_Row, ...]:
        if self.tls is not None:
            # Whoever asks for TLS on a port of a sidecar gets nothing else there.
            return (_Row(TLS, (), Handler.HTTP if self.kind is Kind.HTTP else Handler.TCP, mtls=False),)
        return _ROWS[self.mode, self.kind]

    @property
    def needs_tls_inspector(self) -> bool:
        return any(row.transport == TLS for row in self.rows)

    @property
    def needs_http_inspector(self) -> bool:
        return any(row.alpn == HTTP_ALPN for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What all chains of a workload have in common, built once."""

    socket: TransportSocket  # ends the mesh's TLS
    guards: Guards


def build_inbound_listeners(inp: InboundListenerInput) -> tuple[Listener, ...]:
    """Return the workload's listeners, sorted by port: one for everything, or, without capture, one a port.

    A port's own listener binds `bind:port`, the address that endpoints announce. Same input, same bytes.
    """
    common = _Common(
        socket=build_mesh_downstream(trust_domains=inp.trust_domains, mesh_tls=inp.mesh_tls),
        guards=build_guards(inp.request_auth, inp.authorization, mixer=inp.mixer),
    )
    own = tuple(_port_listener(inp, port, common) for port in inp.ports if port.bind)
    return (_virtual_inbound(inp, common), *own) if inp.capture else own


def build_inbound_clusters(inp: InboundListenerInput) -> tuple[Cluster, ...]:
    """Return the clusters that the workload's listeners name, in order of the ports. Fixed ones are not among them."""
    own = tuple(
        build_inbound_cluster(port, connect_timeout=inp.connect_timeout, localhost=inp.localhost) for port in inp.ports
    )
    return (*own, build_mixer_cluster(inp.mixer)) if inp.mixer.needed else own


def _virtual_inbound(inp: InboundListenerInput, common: _Common) -> Listener:
    rest = _passthrough(inp.passthrough_mtls)
    # Ports with a socket of their own are among them: what comes from other workloads is captured before it gets there.
    targets = [_target(port, listener_name(WILDCARD, port.port), port.port) for port in inp.ports]
    # The listener's own port stays closed, whatever a policy says of it.
    targets += [_passthrough(mode, number) for number, mode in inp.passthrough_ports if number != inp.port]
    loop = build_chain(
        name=f"{VIRTUAL_INBOUND}-blackhole",
        match=FilterChainMatch(destination_port=uint32(inp.port)),
        filters=[black_hole(inp.telemetry)],
    )
    return Listener(
        name=VIRTUAL_INBOUND,
        address=address(WILDCARD, inp.port),
        traffic_direction=TrafficDirection.INBOUND,
        filter_chains=[
            loop,
            *(chain for target in (rest, *targets) for chain in _chains(target, inp, common)),
        ],
        listener_filters=[ORIGINAL_DST, *_inspectors(rest, targets)],
        listener_filters_timeout=duration(inp.sniff_timeout),
        continue_on_listener_filters_timeout=True,
        access_log=listener_logs(inp.telemetry),
    )


def _inspectors(rest: _Target, targets: Sequence[_Target]) -> Iterator[ListenerFilter]:
    """Yield the inspectors, each switched off for ports that do not need it.

    That matters beyond cost: an inspector waits for the client's first bytes, and where a server speaks first there
    are none. And TLS that nobody looked at counts as plain text, which is what DISABLE wants.
    """
    for inspector, needed_by in (
        (TLS_INSPECTOR, [target.port for target in targets if target.needs_tls_inspector]),
        (HTTP_INSPECTOR, [target.port for target in targets if target.needs_http_inspector]),
    ):
        everywhere = rest.needs_tls_inspector if inspector is TLS_INSPECTOR else rest.needs_http_inspector
        ports = [target.port for target in targets if target.port not in needed_by] if everywhere else needed_by
        found = without_inspection(inspector, ports, elsewhere=everywhere)
        if found is not None:
            yield found


def _port_listener(inp: InboundListenerInput, port: InboundPort, common: _Common) -> Listener:
    name = listener_name(port.bind, port.port)
    target = _target(port, name, 0)
    inspectors = [
        *([TLS_INSPECTOR] if target.needs_tls_inspector else []),
        *([HTTP_INSPECTOR] if target.needs_http_inspector else []),
    ]
    return Listener(
        name=name,
        address=address(port.bind, port.port),
        traffic_direction=TrafficDirection.INBOUND,
        filter_chains=list(_chains(target, inp, common)),
        listener_filters=inspectors,
        listener_filters_timeout=duration(inp.sniff_timeout),
        continue_on_listener_filters_timeout=True,
        access_log=listener_logs(inp.telemetry),
    )


def _target(port: InboundPort, name: str, match_port: int) -> _Target:
    host = port.service.hostname if port.service is not None else ""
    return _Target(
        name=name,
        http_name=f"inbound_{name}",
        port=match_port,
        cluster=inbound_cluster_name(port.port),
        vhost=inbound_vhost_name(port.service_port),
        operation=f"{host}:{port.service_port}/*" if host else "",
        mode=port.mtls,
        protocol=port.protocol,
        service=port.service,
        limits=port.limits,
        tls=port.tls,
    )


def _passthrough(mode: MtlsMode, port: int = 0) -> _Target:
    return _Target(
        name=VIRTUAL_INBOUND,
        http_name=INBOUND_PASSTHROUGH,
        port=port,
        cluster=INBOUND_PASSTHROUGH,
        vhost=inbound_vhost_name(0),
        operation=":0/*",
        mode=mode,
        protocol=Protocol.AUTO,
        service=None,
    )


def _chains(target: _Target, inp: InboundListenerInput, common: _Common) -> Iterator[FilterChain]:
    """Yield the filter chains of one target."""
    passthrough = target.cluster == INBOUND_PASSTHROUGH
    own = build_server_socket(target.tls) if target.tls is not None else None
    guards = common.guards
    if target.tls is not None:
        guards = build_guards(inp.request_auth, inp.authorization, vouching_of(target.tls), inp.mixer)
    for row in target.rows:
        http = row.handler is Handler.HTTP
        yield build_chain(
            name=f"{VIRTUAL_INBOUND}-catchall-http" if passthrough and http else target.name,
            match=FilterChainMatch(
                destination_port=uint32(target.port) if target.port else None,
                transport_protocol=row.transport,
                application_protocols=row.alpn,
            ),
            filters=[_http(target, inp, row, guards)]
            if http
            else [
                *guards.tcp,
                inbound_tcp(
                    target.cluster,
                    inp.telemetry,
                    mtls=row.mtls,
                    limits=target.limits,
                    reports=tcp_reports(inp.mixer, target.service),
                ),
            ],
            transport_socket=common.socket if row.mtls else own,
            service=target.service,
            label=INBOUND_PASSTHROUGH if passthrough else "",
        )


def _http(target: _Target, inp: InboundListenerInput, row: _Row, guards: Guards) -> Any:
    return inbound_manager(
        name=target.http_name,
        route=_route(target, inp.retries),
        # Behind a port that is declared `http` nobody is spoken to in HTTP/2, so nobody serves gRPC.
        telemetry=without_messages(inp.telemetry) if target.protocol is Protocol.HTTP else inp.telemetry,
        mtls=row.mtls,
        h2=target.protocol.is_http2,
        grpc_web=target.protocol is Protocol.GRPC_WEB,
        guards=guards.http,
        spelling=inp.spelling,
        early=guards.early,
        reports=http_reports(inp.mixer, target.service),
        local_replies=local_replies(inp.mixer),
    )


def _route(target: _Target, retries: Any) -> RouteConfiguration:
    grpc = target.protocol in (Protocol.GRPC, Protocol.GRPC_WEB)
    route = Route(
        name="default",
        match=EVERYTHING,
        decorator=Decorator(operation=target.operation) if target.operation else None,
        route=RouteAction(
            cluster=target.cluster,
            # gRPC retries by its own status; to repeat a call here could run it twice.
            retry_policy=None if grpc else build_inbound_retry_policy(retries),
            **NO_TIMEOUT,
        ),
    )
    return RouteConfiguration(
        name=target.cluster,
        virtual_hosts=[VirtualHost(name=target.vhost, domains=["*"], routes=[route])],
        validate_clusters=FALSE,
    )
