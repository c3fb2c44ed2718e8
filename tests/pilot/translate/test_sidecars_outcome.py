"""Two real sidecars: what passes between them, which chain takes it, and what both of them count."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    AnyApp,
    ConfigServer,
    HttpApp,
    RealEnvoy,
    ask,
    dead_port,
    dial,
    make_identity,
)
from tests.pilot.translate.cases import QUIET, cluster, inbound, inbound_port, route

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import (
    AutoMtls,
    ClusterInput,
    Destination,
    EndpointInput,
    EndpointsInput,
    Hostname,
    MtlsMode,
    OutboundListenerInput,
    Peer,
    RouteConfigInput,
    ServiceRef,
    TcpRoute,
    VirtualHostInput,
)
from lateen.pilot.translate.clusters import build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.listeners import build_outbound_listener
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.peers import PEER_HEADER
from lateen.pilot.translate.routes import build_route_config
from lateen.wire.peer_env import PEER_TEXT, peer_environment

pytestmark = pytest.mark.envoy

SERVER_ADDRESS = "127.77.0.3"  # of the server's listeners, as where nothing is captured
APP = ServiceRef(hostname=Hostname("app.back.svc.cluster.local"), name="app", namespace="back")
OUTSIDE = ServiceRef(hostname=Hostname("outside.test"), name="outside.test", namespace="front")
SERVER_PEER = Peer(
    workload="app-v1",
    namespace="back",
    cluster="Kubernetes",
    app="app",
    version="v1",
    canonical_service="app",
    canonical_revision="v1",
)
WEB = "spiffe://cluster.local/ns/front/sa/web"
BACK = "spiffe://cluster.local/ns/back/sa/app"

SOURCE_LABELS = {
    "source_workload": "web-v2",
    "source_workload_namespace": "front",
    "source_cluster": "Kubernetes",
    "source_app": "web",
    "source_version": "v2",
    "source_canonical_service": "web",
    "source_canonical_revision": "v2",
    "source_principal": WEB,
}
DESTINATION_LABELS = {
    "destination_workload": "app-v1",
    "destination_workload_namespace": "back",
    "destination_cluster": "Kubernetes",
    "destination_app": "app",
    "destination_version": "v1",
    "destination_canonical_service": "app",
    "destination_canonical_revision": "v1",
    "destination_principal": BACK,
    "destination_service": "app.back.svc.cluster.local",
    "destination_service_name": "app",
    "destination_service_namespace": "back",
}


class Mesh(NamedTuple):
    ports: dict[str, int]  # where the client's application dials, by name
    http: HttpApp
    outside: HttpApp
    web: RealEnvoy
    app: RealEnvoy


def _client(name: str, inp: ClusterInput, endpoint: EndpointInput) -> tuple[int, list[object]]:
    """Return the port and resources of one service port as the client sees it."""
    port = free_port()
    destination = Destination(cluster=outbound_cluster_name(inp.service.hostname, inp.port))
    tcp = () if inp.protocol.is_http else (TcpRoute(destinations=(destination,), stat_prefix=name),)
    host = VirtualHostInput(name=name, domains=("*",), routes=(route(destinations=(destination,)),))
    return port, [
        build_outbound_cluster(inp),
        build_endpoints(EndpointsInput(cluster=destination.cluster, endpoints=(endpoint,))),
        build_outbound_listener(
            OutboundListenerInput(
                bind="127.0.0.1",
                port=port,
                bind_to_port=True,
                http_route="" if inp.protocol is Protocol.TCP else name,
                tcp=tcp,
                telemetry=QUIET,
            )
        ),
        build_route_config(RouteConfigInput(name=name, virtual_hosts=(host,))),
    ]


@pytest.fixture(scope="module")
def mesh(authority: StrangeAuthority, server: ConfigServer, folder: Path) -> Iterator[Mesh]:
    with ExitStack() as stack:
        http_app = stack.enter_context(HttpApp("app"))
        outside = stack.enter_context(HttpApp("outside"))
        any_app = stack.enter_context(AnyApp())
        grpc_port = _serve_grpc(stack)
        # name -> (port of the sidecar, protocol, port of the application)
        served = {
            "http": (free_port(SERVER_ADDRESS), Protocol.HTTP, http_app.port),
            "auto": (free_port(SERVER_ADDRESS), Protocol.AUTO, any_app.port),
            "grpc": (free_port(SERVER_ADDRESS), Protocol.AUTO, grpc_port),
            "tcp": (free_port(SERVER_ADDRESS), Protocol.TCP, any_app.port),
            "dead": (free_port(SERVER_ADDRESS), Protocol.TCP, stack.enter_context(dead_port())),
        }
        back = inbound(
            *(
                inbound_port(
                    port=port,
                    service_port=port,
                    protocol=protocol,
                    mtls=MtlsMode.PERMISSIVE if name == "http" else MtlsMode.STRICT,
                    service=APP,
                    bind=SERVER_ADDRESS,
                    forward=f"127.0.0.1:{app}",
                )
                for name, (port, protocol, app) in served.items()
            ),
            capture=False,
            trust_domains=("cluster.local",),
        )
        server.serve(
            "app-v1",
            [
                *make_identity(authority, "app", "back").secrets(),
                *build_inbound_clusters(back),
                *build_inbound_listeners(back),
            ],
        )
        messages: list[object] = [*build_fixed_clusters(for_gateway=False)]
        ports = {}
        for name, (port, protocol, _) in served.items():
            inp = cluster(service=APP, port=port, protocol=protocol, sans=(BACK,))
            endpoint = EndpointInput(address=SERVER_ADDRESS, port=port, mtls=True, peer=SERVER_PEER)
            ports[name], more = _client(name, inp, endpoint)
            messages += more
        impostor = cluster(service=APP, port=served["http"][0], subset="x", sans=(f"{BACK}-other",))
        ports["impostor"], more = _impostor(impostor, served["http"][0])
        messages += more
        inp = cluster(service=OUTSIDE, port=80, mesh_external=True, auto_mtls=AutoMtls.OFF, sans=())
        ports["outside"], more = _client("outside", inp, EndpointInput(address="127.0.0.1", port=outside.port))
        messages += more
        server.serve("web-v2", [*make_identity(authority, "web", "front").secrets(), *messages])
        app = RealEnvoy("app-v1", server, folder, namespace="back", labels={"app": "app", "version": "v1"})
        web = RealEnvoy("web-v2", server, folder, namespace="front", labels={"app": "web", "version": "v2"})
        stack.enter_context(app)
        stack.enter_context(web)
        yield Mesh({**ports, "plain": served["http"][0]}, http_app, outside, web, app)
    assert server.rejections == []


def _impostor(inp: ClusterInput, target: int) -> tuple[int, list[object]]:
    """A listener whose cluster expects another identity than the server has."""
    port = free_port()
    name = outbound_cluster_name(inp.service.hostname, inp.port, inp.subset)
    host = VirtualHostInput(name="impostor", domains=("*",), routes=(route(destinations=(Destination(cluster=name),)),))
    endpoint = EndpointInput(address=SERVER_ADDRESS, port=target, mtls=True)
    return port, [
        build_outbound_cluster(inp),
        build_endpoints(EndpointsInput(cluster=name, endpoints=(endpoint,))),
        build_outbound_listener(
            OutboundListenerInput(
                bind="127.0.0.1", port=port, bind_to_port=True, http_route="impostor", telemetry=QUIET
            )
        ),
        build_route_config(RouteConfigInput(name="impostor", virtual_hosts=(host,))),
    ]


def _serve_grpc(stack: ExitStack) -> int:
    """Start a gRPC application with one method, `/app.App/Echo`; return its port."""
    app = grpc.server(ThreadPoolExecutor(max_workers=2))
    app.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("app.App", {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}),)
    )
    port: int = app.add_insecure_port("127.0.0.1:0")
    app.start()
    stack.callback(lambda: app.stop(0).wait())
    return port


def _echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


def test_http_is_mutual_tls_and_both_sides_say_who(mesh: Mesh) -> None:
    with dial(mesh.ports["http"]) as sock:
        answer = ask(sock, "/hello", host="app.back:80")
    assert answer.json["app"] == "app"
    assert f"URI={WEB}" in answer.json["headers"]["x-forwarded-client-cert"]
    common = {
        **SOURCE_LABELS,
        **DESTINATION_LABELS,
        "request_protocol": "http",
        "response_code": "200",
        "response_flags": "-",
    }
    client = mesh.web.wait_for("istio_requests_total", **DESTINATION_LABELS, response_code="200")
    server = mesh.app.wait_for("istio_requests_total", **DESTINATION_LABELS, response_code="200")
    assert _filled(client.labels) == {**common, "reporter": "source", "connection_security_policy": "unknown"}
    assert _filled(server.labels) == {**common, "reporter": "destination", "connection_security_policy": "mutual_tls"}


def _filled(labels: dict[str, str]) -> dict[str, str]:
    # Not a gRPC request: Prometheus takes an empty label and none for the same.
    assert labels.get("grpc_response_status", "") == ""
    return {name: value for name, value in labels.items() if value}


@pytest.mark.parametrize("metric", ["request_duration_milliseconds", "request_bytes", "response_bytes"])
def test_histograms_have_the_same_labels(mesh: Mesh, metric: str) -> None:
    with dial(mesh.ports["http"]) as sock:
        ask(sock)
    for proxy, reporter in ((mesh.web, "source"), (mesh.app, "destination")):
        proxy.wait_for(f"istio_{metric}_count", above=0, reporter=reporter, **SOURCE_LABELS, **DESTINATION_LABELS)


def test_the_application_does_not_see_the_peer_header(mesh: Mesh) -> None:
    with dial(mesh.ports["http"]) as sock:
        answer = ask(sock, headers={PEER_HEADER: "made-up"})
    assert PEER_HEADER not in {name.lower() for name in answer.json["headers"]}


def test_nothing_is_told_outside_the_mesh(mesh: Mesh) -> None:
    with dial(mesh.ports["outside"]) as sock:
        answer = ask(sock, headers={PEER_HEADER: "made-up"})
    assert answer.json["app"] == "outside"
    assert PEER_HEADER not in {name.lower() for name in answer.json["headers"]}
    sample = mesh.web.wait_for("istio_requests_total", destination_service="outside.test", response_code="200")
    assert sample.labels["destination_service_name"] == "outside.test"
    assert sample.labels["destination_workload"] == "unknown"
    assert sample.labels["destination_principal"] == "unknown"


def test_what_plain_clients_say_of_themselves_is_not_believed(mesh: Mesh) -> None:
    forged = peer_environment(workload="forged", namespace="forged", cluster="forged", labels={})[PEER_TEXT]
    with dial(mesh.ports["plain"], host=SERVER_ADDRESS) as sock:
        answer = ask(sock, headers={PEER_HEADER: forged})
    assert PEER_HEADER not in {name.lower() for name in answer.json["headers"]}
    sample = mesh.app.wait_for("istio_requests_total", connection_security_policy="none")
    assert {value for name, value in sample.labels.items() if name.startswith("source_")} == {"unknown"}
    assert sample.labels["destination_workload"] == "app-v1"
    assert sample.labels["destination_service"] == APP.hostname
    assert mesh.app.samples("istio_requests_total")
    assert all("forged" not in sample.labels.values() for sample in mesh.app.samples("istio_requests_total"))


def test_a_server_with_another_identity_is_not_talked_to(mesh: Mesh) -> None:
    with dial(mesh.ports["impostor"]) as sock:
        answer = ask(sock)
    assert answer.status == 503
    name = outbound_cluster_name(APP.hostname, mesh.ports["plain"], "x")
    # Envoy tries three times: the first time and two retries, since nothing was sent.
    assert f"cluster.{name};.ssl.fail_verify_san: 3" in mesh.web.admin("/stats?filter=fail_verify_san")


def test_http_on_a_port_of_unknown_protocol_is_http_on_both_sides(mesh: Mesh) -> None:
    with dial(mesh.ports["auto"]) as sock:
        answer = ask(sock, host="auto.test")
    assert answer.body == b"ok"
    # Had the server taken it for bytes, it would have counted a connection and no request.
    mesh.app.wait_for("istio_requests_total", response_code="200", request_protocol="http", **SOURCE_LABELS)


def test_grpc_on_a_port_of_unknown_protocol_is_http2_on_both_sides(mesh: Mesh) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{mesh.ports['grpc']}") as channel:
        assert channel.unary_unary("/app.App/Echo")(b"ping", timeout=5) == b"ping"
    for proxy in (mesh.web, mesh.app):
        sample = proxy.wait_for("istio_requests_total", request_protocol="grpc", **SOURCE_LABELS, **DESTINATION_LABELS)
        assert sample.labels["grpc_response_status"] == "0"
        assert sample.labels["response_code"] == "200"


NOT_EXCHANGED = {
    **SOURCE_LABELS,
    # TCP carries no header, so all that a server learns is what the certificate proves.
    **{name: "unknown" for name in SOURCE_LABELS if name not in ("source_principal", "source_workload_namespace")},
}


@pytest.mark.parametrize("port", ["tcp", "auto"])
def test_bytes_stay_bytes_and_both_sides_count_the_connection(mesh: Mesh, port: str) -> None:
    sides = (
        (mesh.web, {**SOURCE_LABELS, "reporter": "source", "connection_security_policy": "unknown"}),
        (mesh.app, {**NOT_EXCHANGED, "reporter": "destination", "connection_security_policy": "mutual_tls"}),
    )
    more = {"connections_opened": 1, "connections_closed": 1, "sent_bytes": 10, "received_bytes": 6}
    labels = {**DESTINATION_LABELS, "request_protocol": "tcp", "response_flags": "-"}
    before = {
        (proxy.node, metric): sum(
            sample.value
            for sample in proxy.samples(f"istio_tcp_{metric}_total")
            if sample.labels.items() >= {**labels, **side}.items()
        )
        for proxy, side in sides
        for metric in more
    }
    with dial(mesh.ports[port]) as sock:
        sock.sendall(b"\x00hello")
        assert sock.recv(100) == b"app:\x00hello"
    for proxy, side in sides:
        for metric, count in more.items():
            known = before[proxy.node, metric]
            sample = proxy.wait_for(f"istio_tcp_{metric}_total", above=known, **labels, **side)
            assert sample.value == known + count
            assert sample.labels.keys() == {*labels, *side}


def test_connections_that_fail_are_counted_as_opened_and_closed(mesh: Mesh) -> None:
    with dial(mesh.ports["dead"]) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b""
    for metric in ("opened", "closed"):
        sample = mesh.app.wait_for(
            f"istio_tcp_connections_{metric}_total", response_flags="UF,URX", reporter="destination"
        )
        assert sample.labels["destination_service"] == APP.hostname


def test_series_have_istios_names_and_no_others(mesh: Mesh) -> None:
    with dial(mesh.ports["http"]) as sock:
        ask(sock)
    text = mesh.web.admin("/stats/prometheus")
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE envoy_istio_")}
    assert {
        "envoy_istio_requests_total",
        "envoy_istio_request_duration_milliseconds",
        "envoy_istio_request_bytes",
        "envoy_istio_response_bytes",
    } <= names
    sample = mesh.web.wait_for("istio_requests_total", reporter="source", request_protocol="http")
    expected = {*SOURCE_LABELS, *DESTINATION_LABELS, "reporter", "request_protocol", "response_code"}
    expected |= {"response_flags", "connection_security_policy"}
    assert set(sample.labels) == expected
