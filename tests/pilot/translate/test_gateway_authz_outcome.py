"""Whose identity a gateway believes: who connects to a real Envoy, with which certificate, and is let in."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import ConfigServer, HttpApp, Identity, RealEnvoy, ask, dial, make_identity
from tests.pilot.translate.authz_cases import in_force
from tests.pilot.translate.cases import PEER, QUIET, REVIEWS, cluster, host, route

from lateen.pilot.model.values import (
    AutoMtls,
    Destination,
    EndpointInput,
    EndpointsInput,
    GatewayListenerInput,
    GatewayServer,
    RouteConfigInput,
    ServerTls,
)
from lateen.pilot.model.values_authz import Authorization
from lateen.pilot.translate.clusters import build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.gateway import build_gateway_listener
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.routes import build_route_config

pytestmark = pytest.mark.envoy

NODE = "edge"
PARTNER_ROOTS = "kubernetes://partner-cacert"
OWN = ServerTls(certificates=("default",))
SERVERS = {
    "mesh": ServerTls(
        certificates=("default",), roots="ROOTCA", require_client=True, trust_domains=("cluster.local", "old.domain")
    ),
    "partner": ServerTls(certificates=("default",), roots=PARTNER_ROOTS, require_client=True),
    "unchecked": ServerTls(certificates=("default",), roots=PARTNER_ROOTS, accept_untrusted=True),
    "simple": OWN,
    "plain": None,
}
POLICIES = Authorization(
    policies=in_force(
        "{rules: [{from: [{source: {namespaces: [default]}},"
        " {source: {trustDomains: [partner.test], namespaces: [default]}}]}, {to: [{operation: {paths: [/open]}}]}]}",
        "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/bad']}}]}]}",
        "{action: DENY, rules: [{when: [{key: connection.sni, values: [bad.test]}]}]}",
    ),
    trust_domains=("cluster.local", "old.domain"),
)


class Edge(NamedTuple):
    ports: dict[str, int]
    folder: Path
    mesh: StrangeAuthority
    partner: StrangeAuthority

    def status(self, server: str, identity: Identity | None = None, path: str = "/", *, sni: str = "a.test") -> int:
        """Return what a client hears there; 0: nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if identity is not None:
            context.load_cert_chain(*identity.write(self.folder)[:2])
        try:
            with dial(self.ports[server]) as raw:
                if server == "plain":
                    return ask(raw, path, host="shop.test").status
                with context.wrap_socket(raw, server_hostname=sni) as sock:
                    return ask(sock, path, host="shop.test").status
        except (OSError, http.client.HTTPException):
            return 0


@pytest.fixture(scope="module")
def edge(folder: Path, server: ConfigServer) -> Iterator[Edge]:
    mesh, partner = StrangeAuthority(), StrangeAuthority()
    ports = {name: free_port() for name in SERVERS}
    roots = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=partner.root_pem))
    name = outbound_cluster_name(REVIEWS.hostname, 9080)
    shop = host(route(destinations=(Destination(cluster=name),)), name="shop:80", domains=("shop.test",))
    with ExitStack() as stack:
        app = stack.enter_context(HttpApp("reviews"))
        endpoint = EndpointInput(address="127.0.0.1", port=app.port, peer=PEER)
        listeners = [
            build_gateway_listener(
                GatewayListenerInput(
                    bind="127.0.0.1",
                    port=ports[kind],
                    servers=(GatewayServer(tls=tls, http_route="http.80"),),
                    authorization=POLICIES,
                    telemetry=QUIET,
                )
            )
            for kind, tls in SERVERS.items()
        ]
        server.serve(
            NODE,
            [
                *make_identity(mesh, NODE).secrets(),
                Secret(name=PARTNER_ROOTS, validation_context=roots),
                *build_fixed_clusters(for_gateway=True),
                build_outbound_cluster(cluster(auto_mtls=AutoMtls.OFF, sans=(), for_gateway=True)),
                build_endpoints(EndpointsInput(cluster=name, endpoints=(endpoint,))),
                build_route_config(RouteConfigInput(name="http.80", virtual_hosts=(shop,))),
                *listeners,
            ],
        )
        envoy = stack.enter_context(RealEnvoy(NODE, server, folder))
        envoy.wait_until("/listeners", lambda text: all(f":{port}" in text for port in ports.values()))
        yield Edge(ports, folder, mesh, partner)
    assert server.rejections == []


def test_a_gateway_of_the_mesh_knows_identities_of_the_mesh(edge: Edge) -> None:
    clients = {name: make_identity(edge.mesh, name) for name in ("web", "bad")}
    assert edge.status("mesh", clients["web"]) == 200
    assert edge.status("mesh", clients["bad"]) == 403
    assert edge.status("mesh", make_identity(edge.mesh, "web", domain="old.domain")) == 200
    assert edge.status("mesh", make_identity(edge.mesh, "web", namespace="other")) == 403


def test_another_authority_vouches_for_its_own_identities_and_not_for_the_meshs(edge: Edge) -> None:
    forged = make_identity(edge.partner, "web")
    assert edge.status("partner", forged) == 403
    assert edge.status("partner", make_identity(edge.partner, "web", domain="partner.test")) == 200
    assert edge.status("partner", forged, "/open") == 200
    assert edge.status("partner", make_identity(edge.partner, "bad", domain="partner.test"), "/open") == 403


def test_nobody_vouches_for_certificates_that_are_not_checked(edge: Edge) -> None:
    for forged in (make_identity(StrangeAuthority(), "web"), make_identity(StrangeAuthority(), "web", domain="x.test")):
        assert edge.status("unchecked", forged) == 403
        assert edge.status("unchecked", forged, "/open") == 200


def test_who_shows_no_certificate_has_no_identity(edge: Edge) -> None:
    for server in ("simple", "plain", "unchecked"):
        assert [edge.status(server, path=path) for path in ("/", "/open")] == [403, 200], server
    assert edge.status("mesh") == 0


def test_server_names_are_known_where_a_policy_asks_about_them(edge: Edge) -> None:
    assert edge.status("simple", path="/open", sni="bad.test") == 403
