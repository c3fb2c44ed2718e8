"""Where policies are tried: one real Envoy that holds many workloads' listeners, and clients of every sort.

`Court`   one Envoy. `hold` gives it cases, each the translated policies of one workload behind a listener of its own.
`Case`    policies and the port of its listener.
`Client`  how one asks: identity, server name, addresses; `ask_http` and `ask_tcp` tell what came of it.

Tokens are checked by one key, whoever issued them. Both external authorizers let in what has `x-verdict: yes`, and
refuse all else with a status of their own. What a captured connection's addresses would be, a PROXY header says. The
applications are two listeners of the same Envoy: one answers requests with what it got, one echoes bytes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.echo.v3.echo_pb2 import Echo
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.message import Message
from tests.fakes.authorizers import GrpcAuthorizer, HttpAuthorizer, Question
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port, free_ports
from tests.fakes.proxies import (
    ConfigServer,
    Identity,
    RealEnvoy,
    by_address,
    make_identity,
    sign_identity,
    unmarked,
)
from tests.fakes.tokens import jwks

from lateen.api.base import EMPTY
from lateen.api.protocol import Protocol
from lateen.pilot.model.values import InboundListenerInput, InboundPort, MtlsMode
from lateen.pilot.model.values_jwt import TokenFilterInput, TokenIssuer
from lateen.pilot.model.values_telemetry import Telemetry
from lateen.pilot.translate.clusters import build_fixed_clusters, build_inbound_cluster
from lateen.pilot.translate.inbound import build_inbound_listeners
from lateen.pilot.translate.jwt import build_token_filter
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import address
from lateen.pilot.translate.upstream_http import OPTIONS_KEY

NODE = "court"
SECONDS = 10.0
HTTP_PORT, OTHER_HTTP_PORT, TCP_PORT = 8001, 8080, 8002  # of the workloads
NETWORK = "127.66"  # of listeners; nothing else connects from there or listens there
GRPC_AUTHORIZER, HTTP_AUTHORIZER = "asker", "web-asker"  # hosts and names of providers
REFUSED = {GRPC_AUTHORIZER: 429, HTTP_AUTHORIZER: 428}  # what a refused client gets
MESH_ALPN = ("istio-http/1.1", "istio", "http/1.1")
MESH_H2_ALPN = ("istio-h2", "istio", "h2")


@dataclass
class Case:
    """One workload: what is in force there, as `InboundListenerInput` takes it, and the address of its listener."""

    fields: Mapping[str, Any]
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """How one connects. `identity` None: without TLS."""

    identity: str | None = None  # key of `Court.identities`
    sni: str = ""
    source: str = "127.0.0.1"  # where the connection really comes from
    claimed: str = "10.77.0.9"  # where the PROXY header says it comes from
    to: tuple[str, int] = ("10.77.0.10", HTTP_PORT)
    h2: bool = False  # HTTP/2 is offered in TLS; without TLS a client just begins with it


@dataclass(frozen=True, slots=True)
class HttpOutcome:
    """What became of one request."""

    status: int
    arrived: bool  # the application answered
    path: str = ""  # as the application got it, with its query
    host: str = ""
    closing: bool = False  # no other request goes over this connection
    body: bytes = field(default=b"", compare=False)


class Court:
    """Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        identities: Mapping[str, str] = EMPTY,
        trust_domains: Sequence[str] = ("cluster.local",),
        http: Mapping[int, int] = EMPTY,
    ) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._authority = StrangeAuthority()
        self._trust_domains = tuple(trust_domains)
        self._own = make_identity(self._authority, "court")
        self.identities = {key: sign_identity(self._authority, text) for key, text in identities.items()}
        self._http_ports = http  # of workloads whose application is another -> where that is
        self._port = free_port(f"{NETWORK}.0.1")
        self._held = 0  # cases ever
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._server = ConfigServer(folder / "config.sock")
        self._stack.callback(self._server.close)
        self._http_app, self._tcp_app = free_ports(2)
        self._authorizers = {GRPC_AUTHORIZER: GrpcAuthorizer(), HTTP_AUTHORIZER: HttpAuthorizer()}

    def __enter__(self) -> Self:
        for name, authorizer in self._authorizers.items():
            self._stack.enter_context(authorizer)
            authorizer.verdict = partial(_verdict, name)
        self._server.serve(NODE, [*self._always()])
        self.envoy = self._stack.enter_context(RealEnvoy(NODE, self._server, self._folder, labels={"app": NODE}))
        for key, identity in self.identities.items():
            for h2 in (False, True):
                self._contexts[key, h2] = self._context(identity, MESH_H2_ALPN if h2 else MESH_ALPN)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def hold(self, cases: Iterable[Case], *, extra: Iterable[Message] = ()) -> None:
        """Put these cases in the place of all others; returns when each of them listens. Refusals raise."""
        held = list(cases)
        listeners = []
        for case in held:
            # An address of its own, where no outgoing connection of the machine happens to sit on the port.
            self._held += 1
            case.host = f"{NETWORK}.{self._held // 250 % 250}.{self._held % 250 + 1}"
            (listener,) = build_inbound_listeners(self._input(case.fields))
            captured = by_address(listener)
            captured.name = f"case-{self._held}"
            captured.address.socket_address.address = case.host
            listeners.append(captured)
        more = list(extra)
        self._server.serve(NODE, [*self._always(), *listeners, *more])
        self._server.wait_until_taken(NODE, 60.0)
        assert not self._server.rejections, self._server.rejections
        wanted = len(held) + 2 + sum(isinstance(message, Listener) for message in more)
        self.envoy.wait_until(
            "/stats?filter=listener_manager.total_listeners",
            lambda text: f"total_listeners_active: {wanted}\n" in text and "total_listeners_warming: 0\n" in text,
        )

    def _always(self) -> list[Message]:
        ports = self._inbound_ports()
        clusters = [
            *(build_inbound_cluster(port, connect_timeout=timedelta(seconds=5), localhost=False) for port in ports),
            *build_fixed_clusters(for_gateway=False),
        ]
        return [
            *self._own.secrets(),
            *map(unmarked, clusters),
            *(_authorizer(name, found.port) for name, found in self._authorizers.items()),
            build_token_filter(TokenFilterInput(issuers=(TokenIssuer(keys=jwks("ec")),))),
            _answering("http-app", self._http_app),
            _echoing("tcp-app", self._tcp_app),
        ]

    def _inbound_ports(self) -> tuple[InboundPort, ...]:
        return tuple(map(self._inbound_port, sorted({HTTP_PORT, TCP_PORT, OTHER_HTTP_PORT, *self._http_ports})))

    def _inbound_port(self, port: int) -> InboundPort:
        tcp = port == TCP_PORT
        application = self._http_ports.get(port, self._tcp_app if tcp else self._http_app)
        return InboundPort(
            port=port,
            service_port=port,
            protocol=Protocol.TCP if tcp else Protocol.HTTP,
            mtls=MtlsMode.PERMISSIVE,
            service=None,
            forward=f"127.0.0.1:{application}",
        )

    def _input(self, fields: Mapping[str, Any]) -> InboundListenerInput:
        return InboundListenerInput(
            **{
                "port": self._port,
                "ports": self._inbound_ports(),
                "passthrough_mtls": MtlsMode.PERMISSIVE,
                "trust_domains": self._trust_domains,
                "telemetry": Telemetry(),
                **fields,
            }
        )

    # ---- clients

    def _context(self, identity: Identity, alpn: Sequence[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        certificate, key, bundle = identity.write(self._folder)
        context.check_hostname = False  # SPIFFE identities are not host names
        context.load_verify_locations(bundle)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(list(alpn))
        return context

    def connect(self, case: Case, client: Client) -> socket.socket:
        """Return a connection to a case's workload. Raises `OSError` when it is refused."""
        sock = socket.create_connection((case.host, self._port), timeout=SECONDS, source_address=(client.source, 0))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            family = "TCP6" if ":" in client.claimed else "TCP4"
            sock.sendall(f"PROXY {family} {client.claimed} {client.to[0]} 40000 {client.to[1]}\r\n".encode())
            if client.identity is None:
                return sock
            return self._contexts[client.identity, client.h2].wrap_socket(sock, server_hostname=client.sni or None)
        except BaseException:
            sock.close()
            raise

    def ask_tcp(self, case: Case, client: Client) -> bool:
        """Return whether bytes reach the application and come back."""
        try:
            with self.connect(case, client) as sock:
                sock.sendall(b"hello")
                return sock.recv(5) == b"hello"
        except (ConnectionError, ssl.SSLError):
            return False


def ask_http(sock: socket.socket, request: bytes, *, head: bool = False) -> HttpOutcome:
    """Send one request and return what came of it. Raises `ConnectionError` when there is no answer."""
    sock.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"no answer to {request!r}, only {data!r}")
        data += more
    start, _, body = data.partition(b"\r\n\r\n")
    first, *lines = start.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    length = 0 if head else int(headers.get(b"content-length", b"0"))
    while len(body) < length:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"an answer to {request!r} was cut short")
        body += more
    return HttpOutcome(
        status=int(first.split(b" ")[1]),
        arrived=b"x-app-path" in headers,
        path=headers.get(b"x-app-path", b"").decode("latin-1"),
        host=headers.get(b"x-app-host", b"").decode("latin-1"),
        closing=headers.get(b"connection", b"").lower() == b"close",
        body=body,
    )


def _answering(name: str, port: int) -> Listener:
    """Return an application that answers every request with its path and host, taken as they come."""
    headers = [
        HeaderValueOption(header=HeaderValue(key="x-app-path", value="%REQ(:PATH)%")),
        HeaderValueOption(header=HeaderValue(key="x-app-host", value="%REQ(:AUTHORITY)%")),
    ]
    route = Route(
        match=RouteMatch(prefix=""),
        direct_response=DirectResponseAction(status=200, body=DataSource(inline_string="")),
        response_headers_to_add=headers,
    )
    manager = HttpConnectionManager(
        stat_prefix=name,
        route_config=RouteConfiguration(
            name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=[route])]
        ),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))],
    )
    return _listener(name, port, Filter(name="http", typed_config=pack(manager)))


def _echoing(name: str, port: int) -> Listener:
    return _listener(name, port, Filter(name="envoy.filters.network.echo", typed_config=pack(Echo())))


def authorizer_cluster(name: str) -> str:
    return outbound_cluster_name(f"{name}.test", 80)


def _authorizer(name: str, port: int) -> Cluster:
    """Return the cluster of an authorizer, which is said to be at `<name>.test`."""
    at = LbEndpoint(endpoint=Endpoint(address=address("127.0.0.1", port)))
    versions = HttpProtocolOptions.ExplicitHttpConfig(
        **({"http2_protocol_options": {}} if name == GRPC_AUTHORIZER else {"http_protocol_options": {}})
    )
    return Cluster(
        name=authorizer_cluster(name),
        load_assignment=ClusterLoadAssignment(
            cluster_name=authorizer_cluster(name), endpoints=[LocalityLbEndpoints(lb_endpoints=[at])]
        ),
        typed_extension_protocol_options={OPTIONS_KEY: pack(HttpProtocolOptions(explicit_http_config=versions))},
    )


def _verdict(name: str, question: Question) -> tuple[int, dict[str, str]]:
    return (200 if question.headers.get("x-verdict") == "yes" else REFUSED[name]), {}


def _listener(name: str, port: int, last: Filter) -> Listener:
    return Listener(name=name, address=address("127.0.0.1", port), filter_chains=[FilterChain(filters=[last])])
