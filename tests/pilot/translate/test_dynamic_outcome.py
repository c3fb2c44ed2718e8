"""Hosts that nobody knew before they were asked for, through a real Envoy. DNS knows every name under `localhost`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import Message
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.ports import free_port
from tests.fakes.proxies import Answer, AnyApp, ConfigServer, HttpApp, RealEnvoy, ask, by_address, dial
from tests.pilot.translate.cases import QUIET, cluster, route

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import (
    ALLOW_ANY_DYNAMIC_DNS,
    REGISTRY_ONLY,
    AutoMtls,
    Destination,
    DynamicClusterInput,
    DynamicTarget,
    Hostname,
    HttpProxyListenerInput,
    OutboundListenerInput,
    Resolution,
    RouteConfigInput,
    ServiceRef,
    TcpRoute,
    UpstreamTls,
    VirtualHostInput,
    VirtualOutboundInput,
)
from lateen.pilot.translate.clusters import build_dynamic_cluster, build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.listeners import (
    build_http_proxy_listener,
    build_outbound_listener,
    build_virtual_outbound,
)
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.routes import build_route_config

pytestmark = pytest.mark.envoy

PLAIN, SECURE, CHECKED, ODD = "*.plain.localhost", "*.secure.localhost", "*.checked.localhost", "*-odd.localhost"
REFRESH = timedelta(seconds=60)
ROOTS = UpstreamTls(mode="SIMPLE", ca_certificates="/roots.pem")


def service(host: str) -> ServiceRef:
    return ServiceRef(hostname=Hostname(host), name=host, namespace="default")


class World:
    """One client's Envoy, an application in plain text and one in TLS for `api.secure.localhost`."""

    def __init__(self, folder: Path, server: ConfigServer, stack: ExitStack) -> None:
        self.app = stack.enter_context(HttpApp("outside"))
        authority = StrangeAuthority()
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("api.secure.localhost"), x509.DNSName("api.checked.localhost")]
        (folder / "out.pem").write_bytes(pem_of(authority.certify(key, names=names)))
        (folder / "out.key").write_bytes(key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "out.pem", folder / "out.key")
        self.secure = stack.enter_context(AnyApp(tls=context))
        self.roots = authority.root_pem
        self.ports = {name: free_port() for name in ("http", "tls", "any", "virtual", "proxy")}
        server.serve("dynamic", self._messages())
        self.envoy = stack.enter_context(RealEnvoy("dynamic", server, folder))

    def _messages(self) -> list[Message]:
        roots = Secret(
            name="file-root:/roots.pem",
            validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=self.roots)),
        )
        hosts = tuple(
            VirtualHostInput(
                name=host,
                domains=(host,),
                routes=(route(destinations=(Destination(cluster=outbound_cluster_name(Hostname(host), 80)),)),),
            )
            for host in (PLAIN, CHECKED, ODD)
        )
        clusters = [
            build_outbound_cluster(
                cluster(
                    service=service(host),
                    port=port,
                    protocol=protocol,
                    resolution=Resolution.DYNAMIC_DNS,
                    mesh_external=True,
                    auto_mtls=AutoMtls.OFF,
                    tls=tls,
                    sans=(),
                )
            )
            for host, port, protocol, tls in (
                (PLAIN, 80, Protocol.HTTP, None),
                (ODD, 80, Protocol.GRPC, UpstreamTls(mode="DISABLE")),
                (CHECKED, 80, Protocol.HTTP, ROOTS),
                (SECURE, 443, Protocol.TLS, None),
            )
        ]
        to_secure = TcpRoute(
            destinations=(Destination(cluster=outbound_cluster_name(Hostname(SECURE), 443)),),
            stat_prefix="secure",
            sni=(SECURE,),
            dynamic=DynamicTarget(port=self.secure.port, dns_refresh=REFRESH),
        )
        return [
            roots,
            *build_fixed_clusters(for_gateway=False),
            build_dynamic_cluster(DynamicClusterInput(connect_timeout=timedelta(seconds=2), dns_refresh=REFRESH)),
            *clusters,
            build_route_config(RouteConfigInput(name="80", virtual_hosts=hosts, catch_all=REGISTRY_ONLY)),
            build_route_config(RouteConfigInput(name="any", virtual_hosts=(), catch_all=ALLOW_ANY_DYNAMIC_DNS)),
            build_route_config(
                RouteConfigInput(name="http_proxy", virtual_hosts=hosts, catch_all=ALLOW_ANY_DYNAMIC_DNS)
            ),
            *(
                build_outbound_listener(
                    OutboundListenerInput(
                        bind="0.0.0.0",
                        port=self.ports[name],
                        bind_to_port=True,
                        http_route=routes,
                        tcp=chains,
                        policy=policy,
                        dynamic_dns=REFRESH if routes else None,
                        telemetry=QUIET,
                    )
                )
                for name, routes, chains, policy in (
                    ("http", "80", (), REGISTRY_ONLY),
                    ("tls", "", (to_secure,), REGISTRY_ONLY),
                    ("any", "any", (), ALLOW_ANY_DYNAMIC_DNS),
                )
            ),
            by_address(
                build_virtual_outbound(
                    VirtualOutboundInput(
                        port=self.ports["virtual"],
                        policy=ALLOW_ANY_DYNAMIC_DNS,
                        dynamic_dns=REFRESH,
                        telemetry=QUIET,
                    )
                )
            ),
            build_http_proxy_listener(
                HttpProxyListenerInput(bind="127.0.0.1", port=self.ports["proxy"], dynamic_dns=REFRESH, telemetry=QUIET)
            ),
        ]

    def get(self, host: str, *, port: str = "http") -> Answer:
        with dial(self.ports[port]) as sock:
            return ask(sock, "/", host=host)


@pytest.fixture(scope="module")
def world(folder: Path, server: ConfigServer) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(folder, server, stack)
    assert server.rejections == []


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_request_goes_where_its_host_is(world: World, name: str) -> None:
    host = f"{name}.plain.localhost:{world.app.port}"
    answer = world.get(host)
    assert answer.status == 200
    assert answer.json["headers"]["host"] == host


def test_only_the_hosts_of_the_entry_are_looked_up(world: World) -> None:
    assert world.get(f"one.elsewhere.localhost:{world.app.port}").status == 502


def test_tls_goes_where_its_server_name_is(world: World) -> None:
    context = ssl.create_default_context(cadata=world.roots.decode())
    for _ in range(2):
        with (
            dial(world.ports["tls"]) as sock,
            context.wrap_socket(sock, server_hostname="api.secure.localhost") as tls,
        ):
            tls.sendall(b"hello\n")
            assert tls.recv(100) == b"app:hello\n"
    with dial(world.ports["tls"]) as sock, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(sock, server_hostname="api.elsewhere.localhost")


def test_tls_that_is_begun_here_checks_each_hosts_name(world: World) -> None:
    assert world.get(f"api.checked.localhost:{world.secure.port}").body == b"ok"
    assert world.get(f"other.checked.localhost:{world.secure.port}").status == 503
    refused = world.envoy.admin("/stats?filter=checked.localhost.*fail_verify_san")
    assert int(refused.rpartition(":")[2]) > 0


@pytest.mark.parametrize("port", ["any", "proxy"])
def test_any_host_may_be_looked_up_when_the_mesh_says_so(world: World, port: str) -> None:
    host = f"unheard.localhost:{world.app.port}"
    assert world.get(host, port=port).json["headers"]["host"] == host


def test_captured_requests_to_unknown_ports_are_looked_up_and_other_connections_pass(world: World) -> None:
    with dial(world.ports["virtual"], to=("192.0.2.1", 7777)) as sock:
        answer = ask(sock, "/", host=f"unheard.localhost:{world.app.port}")
        assert answer.status == 200
    context = ssl.create_default_context(cadata=world.roots.decode())
    with (
        dial(world.ports["virtual"], to=("127.0.0.1", world.secure.port)) as sock,
        context.wrap_socket(sock, server_hostname="api.secure.localhost") as tls,
    ):
        tls.sendall(b"hello\n")
        assert tls.recv(100) == b"app:hello\n"
