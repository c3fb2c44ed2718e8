"""What a gateway lets in, through a real Envoy; and that its counts outlive a change of its listeners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.message import Message
from tests.fakes.ports import free_port
from tests.fakes.proxies import ConfigServer, HttpApp, RealEnvoy, ask, dial
from tests.pilot.translate.cases import PEER, QUIET, REVIEWS, cluster, host, route

from lateen.pilot.model.values import (
    AutoMtls,
    Destination,
    EndpointInput,
    EndpointsInput,
    GatewayListenerInput,
    GatewayServer,
    RouteConfigInput,
)
from lateen.pilot.translate.clusters import build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.gateway import build_gateway_listener
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.peers import PEER_HEADER
from lateen.pilot.translate.routes import build_route_config

pytestmark = pytest.mark.envoy

NODE = "ingressgateway"


class Ingress(NamedTuple):
    ports: tuple[int, int]
    server: ConfigServer
    envoy: RealEnvoy
    app_port: int

    def messages(self, *ports: int, tls_ports: tuple[int, ...] = ()) -> list[Message]:
        name = outbound_cluster_name(REVIEWS.hostname, 9080)
        endpoint = EndpointInput(address="127.0.0.1", port=self.app_port, peer=PEER)
        shop = host(route(destinations=(Destination(cluster=name),)), name="shop:80", domains=("shop.test",))
        listeners = [
            build_gateway_listener(
                GatewayListenerInput(
                    bind="127.0.0.1",
                    port=port,
                    servers=(GatewayServer(http_route="http.80"),),
                    telemetry=QUIET,
                )
            )
            for port in ports
        ]
        return [
            *build_fixed_clusters(for_gateway=True),
            build_outbound_cluster(cluster(auto_mtls=AutoMtls.OFF, sans=(), for_gateway=True)),
            build_endpoints(EndpointsInput(cluster=name, endpoints=(endpoint,))),
            build_route_config(RouteConfigInput(name="http.80", virtual_hosts=(shop,))),
            *listeners,
        ]


@pytest.fixture
def ingress(folder: Path, server: ConfigServer) -> Iterator[Ingress]:
    with ExitStack() as stack:
        app = stack.enter_context(HttpApp("reviews"))
        envoy = RealEnvoy(NODE, server, folder, namespace="istio-system", labels={"app": NODE, "version": "v1"})
        ingress = Ingress((free_port(), free_port()), server, envoy, app.port)
        server.serve(NODE, ingress.messages(*ingress.ports))
        stack.enter_context(envoy)
        yield ingress
    assert server.rejections == []


def test_what_clients_claim_does_not_get_in(ingress: Ingress) -> None:
    claims = {
        PEER_HEADER: "me",
        "x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/a/sa/admin",
        "x-forwarded-for": "1.2.3.4",
        "x-envoy-original-path": "/admin",
    }
    with dial(ingress.ports[0]) as sock:
        answer = ask(sock, host="shop.test", headers=claims)
    seen = {name.lower(): value for name, value in answer.json["headers"].items()}
    claimed, connected = seen["x-forwarded-for"].split(",")
    assert (claimed, connected != "1.2.3.4") == ("1.2.3.4", True)  # whoever connected is last, which is what counts
    assert "x-forwarded-client-cert" not in seen
    assert "x-envoy-original-path" not in seen
    assert seen.get(PEER_HEADER) != "me"
    assert answer.headers["server"] == "istio-envoy"


def test_what_stands_in_front_is_believed_as_far_as_it_is_said(ingress: Ingress) -> None:
    port = free_port()
    listener = GatewayListenerInput(
        bind="127.0.0.1",
        port=port,
        servers=(GatewayServer(http_route="http.80"),),
        num_trusted_proxies=1,
        forward_client_cert="ALWAYS_FORWARD_ONLY",
        proxy_protocol=True,
        telemetry=QUIET,
    )
    ingress.server.serve(NODE, [*ingress.messages(*ingress.ports), build_gateway_listener(listener)])
    ingress.envoy.wait_until("/listeners", lambda text: f":{port}" in text)
    claims = {"x-forwarded-for": "6.6.6.6,1.2.3.4", "x-forwarded-client-cert": "Hash=balancer"}
    with dial(port) as sock:
        sock.sendall(b"PROXY TCP4 10.9.8.7 127.0.0.1 4000 80\r\n")
        seen = {
            name.lower(): value for name, value in ask(sock, host="shop.test", headers=claims).json["headers"].items()
        }
    assert seen["x-forwarded-for"] == "6.6.6.6,1.2.3.4,10.9.8.7"  # the balancer's word of who connected
    assert seen["x-envoy-external-address"] == "1.2.3.4"  # one proxy is trusted, and this is whom it saw
    assert seen["x-forwarded-client-cert"] == "Hash=balancer"


def test_a_gateway_reports_as_source_and_does_not_trust_the_host(ingress: Ingress) -> None:
    with dial(ingress.ports[0]) as sock:
        ask(sock, host="shop.test")
        assert ask(sock, host="made-up.test").status == 404
    own = {
        "reporter": "source",
        "connection_security_policy": "unknown",
        "source_workload": NODE,
        "source_workload_namespace": "istio-system",
        "source_cluster": "Kubernetes",
        "source_app": NODE,
        "source_version": "v1",
        "source_canonical_service": NODE,
        "source_canonical_revision": "v1",
        "source_principal": "unknown",  # to a server outside of mutual TLS
    }
    server = {
        "destination_workload": PEER.workload,
        "destination_workload_namespace": PEER.namespace,
        "destination_cluster": PEER.cluster,
        "destination_app": PEER.app,
        "destination_version": PEER.version,
        "destination_canonical_service": PEER.canonical_service,
        "destination_canonical_revision": PEER.canonical_revision,
    }
    service = {
        "destination_service": REVIEWS.hostname,
        "destination_service_name": REVIEWS.name,
        "destination_service_namespace": REVIEWS.namespace,
    }
    nobody = dict.fromkeys((*server, *service), "unknown")
    for code, flags, where in (("200", "-", {**server, **service}), ("404", "NR", nobody)):
        for metric in ("requests_total", "request_duration_milliseconds_count", "request_bytes_count"):
            sample = ingress.envoy.wait_for(f"istio_{metric}", response_code=code)
            assert {name: value for name, value in sample.labels.items() if value} == {
                **own,
                **where,
                "destination_principal": "unknown",
                "request_protocol": "http",
                "response_code": code,
                "response_flags": flags,
            }
    lost = ingress.envoy.wait_for("istio_requests_total", response_code="404")
    assert (lost.labels["destination_service"], lost.labels["response_flags"]) == ("unknown", "NR")


def test_counts_go_on_when_listeners_come_and_go(ingress: Ingress) -> None:
    first, second = ingress.ports
    for _ in range(3):
        with dial(first) as sock:
            ask(sock, host="shop.test")
    before = ingress.envoy.wait_for("istio_requests_total", above=2, response_code="200")
    # The listener that counted goes; the other one, which never counted, is replaced.
    ingress.server.serve(NODE, ingress.messages(second, tls_ports=(second,)))
    ingress.envoy.wait_until("/listeners", lambda text: f":{first}" not in text)
    ingress.envoy.wait_until(
        "/stats?filter=listener_manager.total_listeners_draining", lambda text: text.strip().endswith(": 0")
    )
    with dial(second) as sock:
        ask(sock, host="shop.test")
    after = ingress.envoy.wait_for("istio_requests_total", above=before.value, response_code="200")
    assert (after.labels, after.value) == (before.labels, before.value + 1)
