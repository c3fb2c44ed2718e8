"""What a resource becomes so that an Envoy judges it without acting on it. Pure.

In:  a resource as proxies are served it. Out: a `Probe`: the cluster or the listener that Envoy is to take or refuse.
Each probe has a name and an address of its own, so that probes of many views stand beside each other; nothing else in
it differs from what a proxy gets. Nothing is bound, and a probe is taken back as soon as it is judged.

    Cluster                  itself
    ClusterLoadAssignment    a STATIC cluster of these endpoints: the same checks as for endpoints that come by EDS
    Secret                   a cluster whose TLS uses it in place
    Listener                 itself, bound to nothing; one of QUIC as if it were TCP, since UDP is always bound
    RouteConfiguration       a listener whose HTTP connection manager has it in place
    TypedExtensionConfig     a listener that has it as a filter: of HTTP, network or listener, as its type says
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.wrappers_pb2 import BoolValue
from xds.type.v3.typed_struct_pb2 import TypedStruct

from lateen.pilot.taste.loggers import leave_out_loggers
from lateen.pilot.taste.tracers import lead_tracers
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, RDS, SDS
from lateen.wire.envoy import XDS_CLUSTER

__all__ = ["JUDGED", "Probe", "build_probe", "needs_no_taste"]

JUDGED: Final = frozenset({CDS, EDS, LDS, RDS, SDS, ECDS})  # names for the agent's DNS are no Envoy's
MAX_WEIGHT: Final = 2**32 - 1  # of the endpoints of a locality together
MAX_PRIORITY: Final = 128
_PREFIX: Final = "type.googleapis.com/"
_SECOND: Final = Duration(seconds=1)
_TYPED_STRUCT: Final = _PREFIX + TypedStruct.DESCRIPTOR.full_name
_HTTP_MANAGER: Final = "envoy.filters.network.http_connection_manager"


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to judge. `type_url` is CDS or LDS, `name` its name among all probes, `shown` what people call it."""

    type_url: str
    name: str
    shown: str
    version: str  # of the resource that it judges
    body: bytes = field(repr=False)
    loggers: tuple[bytes, ...] = ()  # keys of the access loggers in it (`loggers.py`)


def build_probe(type_url: str, resource: Resource, number: int, known_loggers: Container[bytes] = ()) -> Probe:
    """Return the probe of one resource, without the access loggers that are known to be good.

    `number` tells it from all others. Raises `DecodeError`, `ValueError`.
    """
    name = f"{resource.name}~{number}~"
    packed = AnyMessage.FromString(resource.body)
    match type_url:
        case _ if type_url == CDS:
            cluster = Cluster.FromString(packed.value)
            cluster.name = name
            return _probe(CDS, cluster, resource)
        case _ if type_url == EDS:
            return _probe(CDS, _cluster_of(ClusterLoadAssignment.FromString(packed.value), name), resource)
        case _ if type_url == SDS:
            return _probe(CDS, _cluster_with(Secret.FromString(packed.value), name), resource)
        case _ if type_url == LDS:
            listener = Listener.FromString(packed.value)
            listener.name = name
            loggers = leave_out_loggers(listener, known_loggers)
            lead_tracers(listener, XDS_CLUSTER)
            return replace(_probe(LDS, _unbound(listener, number), resource), loggers=loggers)
        case _ if type_url == RDS:
            routes = RouteConfiguration.FromString(packed.value)
            if not routes.HasField("validate_clusters"):
                # In place, Envoy looks for the clusters; of what comes by RDS it does not.
                routes.validate_clusters.value = False
            return _probe(LDS, _listener_with(name, number, route_config=routes), resource)
        case _ if type_url == ECDS:
            config = TypedExtensionConfig.FromString(packed.value)
            return _probe(LDS, _listener_of(config, name, number), resource)
    raise ValueError(f"{type_url} is nothing that Envoy judges")


def needs_no_taste(type_url: str, resource: Resource) -> bool:
    """Tell whether Envoy is bound to take a resource: endpoints that are addresses, in the bounds of their fields.

    Endpoints change most often and must not wait. Rules: endpoint.proto's constraints; localities' sums of weights.
    """
    if type_url not in JUDGED:
        return True
    if type_url != EDS:
        return False
    try:
        assignment = ClusterLoadAssignment.FromString(AnyMessage.FromString(resource.body).value)
    except DecodeError:
        return False
    if assignment.named_endpoints or assignment.HasField("policy"):
        return False
    for locality in assignment.endpoints:
        if locality.priority > MAX_PRIORITY or locality.HasField("proximity"):
            return False
        if locality.WhichOneof("lb_config") is not None:
            return False
        if sum(_weight(endpoint) for endpoint in locality.lb_endpoints) > MAX_WEIGHT:
            return False
        if not all(map(_plain, locality.lb_endpoints)):
            return False
    return sum(_weight(locality) for locality in assignment.endpoints) <= MAX_WEIGHT


def _weight(entry: Any) -> int:
    return int(entry.load_balancing_weight.value) if entry.HasField("load_balancing_weight") else 1


def _plain(entry: Any) -> bool:
    if entry.WhichOneof("host_identifier") != "endpoint" or _weight(entry) < 1:
        return False
    endpoint = entry.endpoint
    if endpoint.HasField("health_check_config") or endpoint.additional_addresses:
        return False
    kind = endpoint.address.WhichOneof("address")
    if kind == "socket_address":
        place = endpoint.address.socket_address
        return not place.resolver_name and place.protocol == SocketAddress.TCP and _is_address(place.address)
    return kind == "pipe" and 0 < len(endpoint.address.pipe.path) < 100 and endpoint.address.pipe.path.startswith("/")


@lru_cache(maxsize=65536)
def _is_address(text: str) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text) is not None
    except ValueError:
        return False


# ---------------------------------------------------------------- clusters


def _cluster_of(endpoints: ClusterLoadAssignment, name: str) -> Cluster:
    endpoints.cluster_name = name
    return Cluster(name=name, type=Cluster.STATIC, connect_timeout=_SECOND, load_assignment=endpoints)


def _cluster_with(secret: Secret, name: str) -> Cluster:
    context = UpstreamTlsContext()
    match secret.WhichOneof("type"):
        case "tls_certificate":
            context.common_tls_context.tls_certificates.append(secret.tls_certificate)
        case "validation_context":
            context.common_tls_context.validation_context.CopyFrom(secret.validation_context)
        case "session_ticket_keys":
            keys = DownstreamTlsContext(session_ticket_keys=secret.session_ticket_keys)
            raise ValueError(f"session ticket keys are not served ({keys.ByteSize()} bytes)")
        case _:
            pass  # a generic secret: text for a filter
    socket = TransportSocket(name="envoy.transport_sockets.tls", typed_config=_pack(context))
    return Cluster(name=name, type=Cluster.STATIC, connect_timeout=_SECOND, transport_socket=socket)


# ---------------------------------------------------------------- listeners

MAX_PIPE_BYTES: Final = 107  # of sockaddr_un's 108 one ends the text


def _unbound(listener: Listener, number: int) -> Listener:
    """Return a listener that binds to nothing and has addresses of its own: Envoy refuses two listeners of one."""
    if listener.udp_listener_config.HasField("quic_options"):
        _make_tcp(listener)
    listener.bind_to_port.value = False
    for at, address in enumerate(_addresses(listener)):
        _judge_address(address)
        # A Unix socket, too: Envoy makes its file all the same, in the place of the one that a proxy listens on.
        address.CopyFrom(_own_address(number, at, address.socket_address))
    return listener


def _make_tcp(listener: Listener) -> None:
    """Turn a listener of QUIC into one of TCP with the same TLS and the same filters."""
    listener.ClearField("udp_listener_config")
    for address in _addresses(listener):
        if address.WhichOneof("address") == "socket_address":
            address.socket_address.protocol = SocketAddress.TCP
    for chain in listener.filter_chains:
        transport = QuicDownstreamTransport()
        if chain.transport_socket.typed_config.Unpack(transport):
            chain.transport_socket.name = "envoy.transport_sockets.tls"
            chain.transport_socket.typed_config.CopyFrom(_pack(transport.downstream_tls_context))
        for entry in chain.filters:
            manager = HttpConnectionManager()
            if entry.typed_config.Unpack(manager):
                manager.codec_type = HttpConnectionManager.AUTO
                entry.typed_config.CopyFrom(_pack(manager))


def _addresses(listener: Listener) -> Iterator[Address]:
    for address in (listener.address, *(extra.address for extra in listener.additional_addresses)):
        if address.WhichOneof("address") in ("socket_address", "pipe"):
            yield address


def _judge_address(address: Address) -> None:
    """Raise `ValueError` for an address that Envoy would refuse: it is replaced before Envoy sees it."""
    if address.HasField("pipe"):
        if len(address.pipe.path.encode()) > MAX_PIPE_BYTES:
            raise ValueError(f"path of a Unix socket has more than {MAX_PIPE_BYTES} bytes: {address.pipe.path}")
        return
    place = address.socket_address
    if not place.resolver_name and not _is_address(place.address):
        raise ValueError(f"malformed IP address: {place.address}")


def _own_address(number: int, at: int, before: Any) -> Address:
    spread = number % (1 << 22)
    text = f"127.{64 + (spread >> 16)}.{(spread >> 8) & 255}.{spread & 255}"
    place = SocketAddress(address=text, port_value=10_000 + at, protocol=before.protocol)
    return Address(socket_address=place)


def _listener_with(name: str, number: int, *filters: HttpFilter, route_config: RouteConfiguration) -> Listener:
    manager = HttpConnectionManager(
        stat_prefix="taste",
        route_config=route_config,
        http_filters=[*filters, HttpFilter(name="envoy.filters.http.router", typed_config=_pack(Router()))],
    )
    chain = FilterChain(filters=[Filter(name=_HTTP_MANAGER, typed_config=_pack(manager))])
    return Listener(
        name=name,
        address=_own_address(number, 0, SocketAddress()),
        bind_to_port=BoolValue(value=False),
        filter_chains=[chain],
    )


def _listener_of(config: TypedExtensionConfig, name: str, number: int) -> Listener:
    """Return a listener with an extension where its type says that it belongs; HTTP filters where it says nothing."""
    kind = config.typed_config.type_url
    if kind == _TYPED_STRUCT:
        kind = TypedStruct.FromString(config.typed_config.value).type_url
    routes = RouteConfiguration(name=name)
    if ".filters.listener." in kind:
        listener = _listener_with(name, number, route_config=routes)
        listener.listener_filters.add(name=config.name, typed_config=config.typed_config)
        return listener
    if ".filters.network." in kind:
        listener = _listener_with(name, number, route_config=routes)
        manager = listener.filter_chains[0].filters.pop()
        listener.filter_chains[0].filters.add(name=config.name, typed_config=config.typed_config)
        if kind.rpartition(".")[2] not in ("HttpConnectionManager", "TcpProxy"):  # those end a chain themselves
            listener.filter_chains[0].filters.append(manager)
        return listener
    extension = HttpFilter(name=config.name, typed_config=config.typed_config)
    return _listener_with(name, number, extension, route_config=routes)


def _probe(type_url: str, message: Any, resource: Resource) -> Probe:
    body = _pack(message).SerializeToString(deterministic=True)
    return Probe(type_url, message.name, resource.name, resource.version, body)


def _pack(message: Message) -> AnyMessage:
    return AnyMessage(
        type_url=_PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True)
    )
