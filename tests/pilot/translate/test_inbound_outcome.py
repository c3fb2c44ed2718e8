"""What reaches an application through a real Envoy, by mutual TLS mode, kind of port and what the client does."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    AnyApp,
    ConfigServer,
    HttpApp,
    Identity,
    RealEnvoy,
    ask,
    by_address,
    dial,
    make_identity,
    unmarked,
)
from tests.pilot.translate.cases import http_pool, inbound, inbound_port

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import MtlsMode, ServerTls, TcpLimits
from lateen.pilot.translate.clusters import build_fixed_clusters
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners

pytestmark = pytest.mark.envoy

MODES = (MtlsMode.PERMISSIVE, MtlsMode.STRICT, MtlsMode.DISABLE)
KINDS = (Protocol.HTTP, Protocol.TCP, Protocol.AUTO)
HTTP, TCP, REFUSED, FOREIGN = "http", "tcp", "refused", "foreign tls"

# (mode, kind of port) -> by client: plain HTTP, plain TCP, mesh HTTP, mesh TCP, TLS of its own
TABLE = {
    (MtlsMode.PERMISSIVE, Protocol.HTTP): (HTTP, HTTP, HTTP, HTTP, REFUSED),
    (MtlsMode.PERMISSIVE, Protocol.TCP): (TCP, TCP, TCP, TCP, FOREIGN),
    (MtlsMode.PERMISSIVE, Protocol.AUTO): (HTTP, TCP, HTTP, TCP, FOREIGN),
    (MtlsMode.STRICT, Protocol.HTTP): (REFUSED, REFUSED, HTTP, HTTP, REFUSED),
    (MtlsMode.STRICT, Protocol.TCP): (REFUSED, REFUSED, TCP, TCP, REFUSED),
    (MtlsMode.STRICT, Protocol.AUTO): (REFUSED, REFUSED, HTTP, TCP, REFUSED),
    (MtlsMode.DISABLE, Protocol.HTTP): (HTTP, HTTP, REFUSED, REFUSED, REFUSED),
    (MtlsMode.DISABLE, Protocol.TCP): (TCP, TCP, REFUSED, REFUSED, FOREIGN),
    (MtlsMode.DISABLE, Protocol.AUTO): (HTTP, TCP, REFUSED, REFUSED, FOREIGN),
}
CLIENTS = ("plain http", "plain tcp", "mesh http", "mesh tcp", "foreign tls")


class Sidecar(NamedTuple):
    """`virtualInbound` of one Envoy, and the applications behind it."""

    port: int
    apps: dict[tuple[MtlsMode, Protocol], int]
    narrow: HttpApp  # takes one request at a time, a rule says
    brief: int  # of one whose connections end when they are idle
    simple: int  # where the sidecar ends TLS of clients outside of the mesh; requests
    mutual: int  # the same, for clients with a certificate; bytes
    unnamed: int  # the port of an application that no service names
    folder: Path
    client: Identity
    envoy: RealEnvoy


@pytest.fixture(scope="module")
def sidecar(authority: StrangeAuthority, server: ConfigServer, folder: Path) -> Iterator[Sidecar]:
    own = make_identity(authority, "app")
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    foreign.load_cert_chain(*make_identity(StrangeAuthority(), "foreign").write(folder)[:2])
    with ExitStack() as stack:
        apps = {key: stack.enter_context(AnyApp(tls=foreign)).port for key in TABLE}
        narrow = stack.enter_context(HttpApp("narrow"))
        brief = stack.enter_context(AnyApp()).port
        simple, mutual = (stack.enter_context(AnyApp()).port for _ in range(2))
        unnamed = stack.enter_context(AnyApp(tls=foreign)).port
        port = free_port()
        ports = (inbound_port(port=apps[mode, kind], protocol=kind, mtls=mode) for mode, kind in TABLE)
        limits = TcpLimits(idle_timeout=timedelta(milliseconds=200))
        ended = inbound_port(port=brief, protocol=Protocol.TCP, mtls=MtlsMode.DISABLE, limits=limits)
        one = inbound_port(
            port=narrow.port,
            protocol=Protocol.HTTP,
            mtls=MtlsMode.DISABLE,
            connection_pool=http_pool(http2_max_requests=1),
        )
        tls = ServerTls(certificates=("default",), alpn=("h2", "http/1.1"))
        clients = replace(tls, roots="ROOTCA", require_client=True, alpn=())
        sorts = {"protocol": Protocol.HTTP, "tls": tls}, {"protocol": Protocol.TCP, "tls": clients}
        theirs = [
            inbound_port(port=number, mtls=MtlsMode.DISABLE, **sort)
            for number, sort in zip((simple, mutual), sorts, strict=True)
        ]
        inp = inbound(
            *sorted([*ports, ended, one, *theirs], key=lambda entry: entry.port),
            port=port,
            passthrough_mtls=MtlsMode.PERMISSIVE,
        )
        clusters = [*build_inbound_clusters(inp), *build_fixed_clusters(for_gateway=False)]
        server.serve(
            "app-v1",
            [*own.secrets(), *map(unmarked, clusters), *map(by_address, build_inbound_listeners(inp))],
        )
        envoy = stack.enter_context(RealEnvoy("app-v1", server, folder, labels={"app": "app", "version": "v1"}))
        yield Sidecar(
            port, apps, narrow, brief, simple, mutual, unnamed, folder, make_identity(authority, "web"), envoy
        )
    assert server.rejections == []


def mesh(sidecar: Sidecar, identity: Identity, *alpn: str) -> Callable[[socket.socket], socket.socket]:
    """Return what wraps a connection in TLS as a sidecar does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate, key, bundle = identity.write(sidecar.folder)
    context.check_hostname = False  # SPIFFE identities are not host names
    context.load_verify_locations(sidecar.client.write(sidecar.folder)[2] if identity is not sidecar.client else bundle)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(list(alpn))
    return context.wrap_socket


def foreign(sock: socket.socket) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def outcome(sidecar: Sidecar, port: int, client: str, identity: Identity | None = None) -> str:
    """Tell who answered: Envoy's HTTP (`http`), the application behind bytes (`tcp`), itself behind TLS, or nobody."""
    identity = identity or sidecar.client
    wrap = {
        "mesh http": mesh(sidecar, identity, "istio-http/1.1", "istio", "http/1.1"),
        "mesh tcp": mesh(sidecar, identity, "istio"),
        "foreign tls": foreign,
    }.get(client, lambda sock: sock)
    try:
        with dial(sidecar.port, to=("127.0.0.1", port)) as raw, wrap(raw) as sock:
            if client.endswith("http"):
                answer = ask(sock)
                return HTTP if answer.headers["server"] == "istio-envoy" else TCP
            sock.sendall(b"hello\n")
            data = sock.recv(65536)
    except (OSError, http.client.HTTPException):
        return REFUSED
    if data == b"app:hello\n":
        return FOREIGN if client == "foreign tls" else TCP
    return HTTP if data.startswith(b"HTTP/1.1 400") else REFUSED


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("mode", "kind"), [*TABLE], ids=lambda value: value.name.lower())
def test_who_answers(sidecar: Sidecar, mode: MtlsMode, kind: Protocol, client: str) -> None:
    assert outcome(sidecar, sidecar.apps[mode, kind], client) == TABLE[mode, kind][CLIENTS.index(client)]


@pytest.mark.parametrize(
    ("client", "expected"), [*zip(CLIENTS, TABLE[MtlsMode.PERMISSIVE, Protocol.AUTO], strict=True)]
)
def test_ports_that_no_service_names(sidecar: Sidecar, client: str, expected: str) -> None:
    assert outcome(sidecar, sidecar.unnamed, client) == expected


@pytest.mark.parametrize(
    ("port", "client", "expected"),
    [
        ("simple", "foreign tls", HTTP),
        ("simple", "plain http", REFUSED),
        ("simple", "plain tcp", REFUSED),
        ("mutual", "mesh tcp", TCP),  # any client with a certificate of these roots
        ("mutual", "foreign tls", REFUSED),
        ("mutual", "plain tcp", REFUSED),
    ],
)
def test_a_sidecar_ends_tls_of_clients_outside_of_the_mesh(
    sidecar: Sidecar, port: str, client: str, expected: str
) -> None:
    assert outcome(sidecar, getattr(sidecar, port), client) == expected


def test_identities_of_another_trust_domain_are_refused(sidecar: Sidecar, authority: StrangeAuthority) -> None:
    stranger = make_identity(authority, "web", domain="elsewhere")
    port = sidecar.apps[MtlsMode.STRICT, Protocol.TCP]
    assert outcome(sidecar, port, "mesh tcp") == TCP
    assert outcome(sidecar, port, "mesh tcp", stranger) == REFUSED


def test_idle_connections_to_the_application_end_where_a_rule_says_so(sidecar: Sidecar) -> None:
    with dial(sidecar.port, to=("127.0.0.1", sidecar.brief)) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"app:hello"
        assert sock.recv(100) == b""


def test_the_application_is_spared_as_a_rule_of_its_namespace_says(sidecar: Sidecar) -> None:
    to = ("127.0.0.1", sidecar.narrow.port)
    sidecar.narrow.delay_seconds = 30.0
    with dial(sidecar.port, to=to) as held:
        with sidecar.narrow.expect("/first"):
            held.sendall(b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n")
        with dial(sidecar.port, to=to) as second:
            answer = ask(second)
    sidecar.narrow.released.set()
    assert (answer.status, answer.headers["x-envoy-overloaded"]) == (503, "true")


def test_an_alias_of_the_trust_domain_is_accepted(sidecar: Sidecar, authority: StrangeAuthority) -> None:
    alias = make_identity(authority, "web", domain="old.domain")
    assert outcome(sidecar, sidecar.apps[MtlsMode.STRICT, Protocol.TCP], "mesh tcp", alias) == TCP


def test_identities_of_another_authority_are_refused(sidecar: Sidecar) -> None:
    forged = make_identity(StrangeAuthority(), "web")
    assert outcome(sidecar, sidecar.apps[MtlsMode.STRICT, Protocol.TCP], "mesh tcp", forged) == REFUSED


def test_the_capture_port_itself_leads_nowhere(sidecar: Sidecar) -> None:
    assert outcome(sidecar, sidecar.port, "plain tcp") == REFUSED
