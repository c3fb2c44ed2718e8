"""What becomes of requests and connections that leave a workload, through a real Envoy."""

from __future__ import annotations

import http.client
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import Message
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    Answer,
    AnyApp,
    ConfigServer,
    HttpApp,
    RealEnvoy,
    ask,
    by_address,
    dead_port,
    dial,
)
from tests.pilot.translate.cases import QUIET, cluster, hashing, route

from lateen.api import virtual_service as vs
from lateen.pilot.model.values import (
    ALLOW_ANY,
    REGISTRY_ONLY,
    AutoMtls,
    Cluster,
    Destination,
    EndpointInput,
    EndpointsInput,
    HashPolicy,
    Hostname,
    HttpProxyListenerInput,
    MirrorInput,
    OutboundListenerInput,
    RouteConfigInput,
    RouteInput,
    ServiceRef,
    TcpRoute,
    UpstreamTls,
    VirtualHostInput,
    VirtualOutboundInput,
)
from lateen.pilot.translate.clusters import build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.listeners import (
    build_http_proxy_listener,
    build_outbound_listener,
    build_virtual_outbound,
)
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.routes import build_route_config

pytestmark = pytest.mark.envoy

APP = ServiceRef(hostname=Hostname("app.default.svc.cluster.local"), name="app", namespace="default")
SERVICE_PORT = 9080
VIP = "10.96.0.7"


def app_cluster(subset: str) -> Cluster:
    return outbound_cluster_name(APP.hostname, SERVICE_PORT, subset)


V1, V2, BOTH, NONE, SOME = (app_cluster(name) for name in ("v1", "v2", "", "none", "some"))


def to(*clusters: Cluster, **changes: Any) -> RouteInput:
    return route(destinations=tuple(Destination(cluster=entry, weight=1) for entry in clusters), **changes)


def set_header(name: str, value: str) -> vs.Headers:
    return vs.Headers(request=vs.HeaderOperations(set={name: value}))


def under(prefix: str) -> vs.HTTPMatchRequest:
    return vs.HTTPMatchRequest(uri=vs.StringMatch(prefix=prefix))


# host -> routes
HOSTS: dict[str, tuple[RouteInput, ...]] = {
    "plain": (to(V1),),
    "weighted": (
        route(
            destinations=(
                Destination(cluster=V1, weight=3, headers=set_header("x-lane", "one")),
                Destination(cluster=V2, weight=1),
            )
        ),
    ),
    "matched": (
        to(V2, match=vs.HTTPMatchRequest(headers={"end-user": vs.StringMatch(exact="jason")})),
        to(V2, match=vs.HTTPMatchRequest(query_params={"v": vs.StringMatch(exact="2")})),
        to(V2, match=vs.HTTPMatchRequest(uri=vs.StringMatch(exact="/TWO"), ignore_uri_case=True)),
        to(V2, match=vs.HTTPMatchRequest(without_headers={"x-one": vs.StringMatch()}, uri=vs.StringMatch(prefix="/w"))),
        to(V1),
    ),
    "retried": (to(SOME),),
    "retried-status": (to(V1, retries=vs.HTTPRetry(attempts=2, retry_on="503")),),
    "unretried": (to(SOME, retries=vs.HTTPRetry(attempts=0)),),
    "rewritten": (
        to(V1, match=under("/old/"), rewrite=vs.HTTPRewrite(uri="/new/", authority="inner.test")),
        to(
            V1,
            match=under("/v"),
            rewrite=vs.HTTPRewrite(uri_regex_rewrite=vs.RegexRewrite(match="^/v(\\d+)/", rewrite="/version-\\1/")),
        ),
    ),
    "redirected": (
        route(
            destinations=(), redirect=vs.HTTPRedirect(authority="other.test", prefix_rewrite="/b"), match=under("/a")
        ),
    ),
    "answered": (
        route(
            destinations=(),
            direct_response=vs.HTTPDirectResponse(status=418, body=vs.HTTPBody(string="teapot")),
            headers=vs.Headers(response=vs.HeaderOperations(set={"content-type": "text/tea"})),
        ),
    ),
    "faulty": (
        to(
            V1,
            match=under("/abort"),
            fault=vs.HTTPFaultInjection(abort=vs.FaultAbort(http_status=555, percentage=vs.Percent(value=100.0))),
        ),
        to(V1, fault=vs.HTTPFaultInjection(abort=vs.FaultAbort(http_status=555))),
    ),
    "slow": (
        to(
            V1,
            timeout=timedelta(milliseconds=50),
            retries=vs.HTTPRetry(attempts=0),
            headers=set_header("x-delay", "yes"),
        ),
    ),
    "mirrored": (to(V1, mirrors=(MirrorInput(cluster=V2, percent=100.0),)),),
    "sticky": (to(BOTH, hash_policies=(HashPolicy(kind="header", name="x-user"),)),),
    "cross": (
        to(
            V1,
            cors=vs.CorsPolicy(
                allow_origins=(vs.StringMatch(exact="https://shop.test"),),
                allow_methods=("GET",),
                max_age=timedelta(60),
            ),
        ),
    ),
    "empty": (to(NONE),),
    "missing": (to(Cluster("outbound|1||nowhere")),),
}


ROOTS = "/roots.pem"
TLS = {
    "auto": UpstreamTls(mode="SIMPLE", ca_certificates=ROOTS),
    "named": UpstreamTls(mode="SIMPLE", ca_certificates=ROOTS, sni="api.test", subject_alt_names=("api.test",)),
    "misnamed": UpstreamTls(mode="SIMPLE", ca_certificates=ROOTS, sni="api.test", subject_alt_names=("b.test",)),
    "unverified": UpstreamTls(mode="SIMPLE", insecure_skip_verify=True),
}
TLS_HOSTS = (
    ("api.test", "auto"),
    ("impostor.test", "auto"),
    ("named.test", "named"),
    ("misnamed.test", "misnamed"),
    ("unverified.test", "unverified"),
)


def _certificate(authority: StrangeAuthority, name: str, folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(pem_of(authority.certify(key, names=[x509.DNSName(name)])))
    paths[1].write_bytes(key_pem(key))
    return paths


class World:
    """One client's Envoy and what is around it."""

    def __init__(self, folder: Path, server: ConfigServer, stack: ExitStack) -> None:
        self.v1 = stack.enter_context(HttpApp("v1"))
        self.v2 = stack.enter_context(HttpApp("v2"))
        self.bytes = stack.enter_context(AnyApp())
        self.ports = {name: free_port() for name in ("open", "closed", "http_proxy", "virtual", "virtual-closed")}
        authority = StrangeAuthority()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*_certificate(authority, "api.test", folder))
        self.secure = stack.enter_context(AnyApp(tls=context))
        self.roots = Secret(
            name="file-root:/roots.pem",
            validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=authority.root_pem)),
        )
        self.dead = stack.enter_context(dead_port())
        server.serve("client", self._messages())
        self.envoy = stack.enter_context(RealEnvoy("client", server, folder, labels={"app": "client"}))

    def _messages(self) -> list[Message]:
        one, two = (EndpointInput(address="127.0.0.1", port=app.port) for app in (self.v1, self.v2))
        dead = EndpointInput(address="127.0.0.1", port=self.dead)
        endpoints: Mapping[str, tuple[EndpointInput, ...]] = {
            "": (one, two),
            "v1": (one,),
            "v2": (two,),
            "none": (),
            # A draw that was tried already is repeated five times at most. Of two endpoints one retry in 64 would meet
            # the dead one again, of three one in 700: both retries of one of twenty requests, once in 100,000.
            "some": (dead, one, two),
        }
        hosts = tuple(
            VirtualHostInput(name=f"{name}:80", domains=(name,), routes=routes)
            for name, routes in sorted(HOSTS.items())
        )
        hosts += tuple(
            VirtualHostInput(name=name, domains=(name,), routes=(to(app_cluster(tls)),)) for name, tls in TLS_HOSTS
        )
        messages: list[Message] = [self.roots]
        for name, tls in TLS.items():
            inp = cluster(service=APP, port=SERVICE_PORT, subset=name, mesh_external=True, tls=tls, sans=())
            messages.append(build_outbound_cluster(inp))
            secure = EndpointInput(address="127.0.0.1", port=self.secure.port)
            messages.append(build_endpoints(EndpointsInput(cluster=app_cluster(name), endpoints=(secure,))))
        messages += [*build_fixed_clusters(for_gateway=False)]
        for subset, members in endpoints.items():
            balancer = hashing(http_header_name="x-user") if subset == "" else None
            inp = cluster(
                service=APP, port=SERVICE_PORT, subset=subset, auto_mtls=AutoMtls.OFF, sans=(), load_balancer=balancer
            )
            messages.append(build_outbound_cluster(inp))
            messages.append(build_endpoints(EndpointsInput(cluster=app_cluster(subset), endpoints=members)))
        for name, policy in (("open", ALLOW_ANY), ("closed", REGISTRY_ONLY)):
            port = self.ports[name]
            messages.append(build_route_config(RouteConfigInput(name=name, virtual_hosts=hosts, catch_all=policy)))
            messages.append(
                build_outbound_listener(
                    OutboundListenerInput(
                        bind="0.0.0.0",
                        port=port,
                        bind_to_port=True,
                        http_route=name,
                        policy=policy,
                        telemetry=QUIET,
                    )
                )
            )
        messages.append(build_route_config(RouteConfigInput(name="http_proxy", virtual_hosts=hosts)))
        messages.append(
            build_http_proxy_listener(
                HttpProxyListenerInput(bind="127.0.0.1", port=self.ports["http_proxy"], telemetry=QUIET)
            )
        )
        route_to_v1 = TcpRoute(destinations=(Destination(cluster=V1),), stat_prefix=V1)
        messages.append(
            build_outbound_listener(
                OutboundListenerInput(bind=VIP, port=SERVICE_PORT, tcp=(route_to_v1,), telemetry=QUIET)
            )
        )
        # The wildcard listener of a port on which somebody outside the registry serves, too.
        messages.append(
            build_outbound_listener(
                OutboundListenerInput(bind="0.0.0.0", port=self.v2.port, http_route="open", telemetry=QUIET)
            )
        )
        captured = build_virtual_outbound(VirtualOutboundInput(port=self.ports["virtual"], telemetry=QUIET))
        closed = build_virtual_outbound(
            VirtualOutboundInput(port=self.ports["virtual-closed"], telemetry=QUIET, policy=REGISTRY_ONLY)
        )
        closed.name = "virtualOutbound-closed"
        return [*messages, by_address(captured), by_address(closed)]

    def get(self, host: str, path: str = "/", *, port: str = "open", **more: Any) -> Answer:
        with dial(self.ports[port]) as sock:
            return ask(sock, path, host=host, **more)

    def apps(self, host: str, count: int = 1, **more: Any) -> Counter[str]:
        return Counter(self.get(host, **more).json["app"] for _ in range(count))


@pytest.fixture(scope="module")
def world(folder: Path, server: ConfigServer) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(folder, server, stack)
    assert server.rejections == []


def test_weights(world: World) -> None:
    answers = [world.get("weighted").json for _ in range(200)]
    shares = Counter(answer["app"] for answer in answers)
    assert 120 <= shares["v1"] <= 178  # 150 expected; five standard deviations either way
    lanes = {(answer["app"], answer["headers"].get("x-lane")) for answer in answers}
    assert lanes == {("v1", "one"), ("v2", None)}


@pytest.mark.parametrize(
    ("path", "headers", "app"),
    [
        pytest.param("/", {}, "v1", id="nothing"),
        pytest.param("/", {"end-user": "jason"}, "v2", id="header"),
        pytest.param("/", {"end-user": "Jason"}, "v1", id="header-case"),
        pytest.param("/?v=2", {}, "v2", id="query"),
        pytest.param("/?v=22", {}, "v1", id="query-other"),
        pytest.param("/two", {}, "v2", id="path-any-case"),
        pytest.param("/w", {}, "v2", id="header-absent"),
        pytest.param("/w", {"x-one": "1"}, "v1", id="header-unwanted"),
    ],
)
def test_matches(world: World, path: str, headers: dict[str, str], app: str) -> None:
    assert world.get("matched", path, headers=headers).json["app"] == app


def test_a_failed_connection_is_retried_elsewhere_by_default(world: World) -> None:
    answers = [world.get("retried") for _ in range(20)]
    assert {answer.status for answer in answers} == {200}


def test_no_attempts_means_no_retries(world: World) -> None:
    statuses = {world.get("unretried").status for _ in range(40)}
    assert statuses == {200, 503}


def test_an_answer_of_503_is_not_retried_by_default(world: World) -> None:
    world.v1.statuses.append(503)
    assert world.get("plain").status == 503
    assert world.get("plain").status == 200


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_request_that_has_reached_the_service_is_not_repeated_by_default(world: World, method: str) -> None:
    world.v1.statuses.append(0)
    answer = world.get("plain", f"/order-{method}", method=method, headers={"content-length": "0"})
    assert answer.status == 503
    assert [asked["method"] for asked in world.v1.requests if asked["path"] == f"/order-{method}"] == [method]


def test_an_answer_of_503_is_retried_where_the_rule_says_so(world: World) -> None:
    world.v1.statuses += [503, 503]
    answer = world.get("retried-status")
    assert (answer.status, answer.json["headers"]["x-envoy-attempt-count"]) == (200, "3")


def test_rewrites(world: World) -> None:
    asked = world.get("rewritten", "/old/page").json
    assert (asked["path"], asked["headers"]["host"]) == ("/new/page", "inner.test")
    assert world.get("rewritten", "/v2/page").json["path"] == "/version-2/page"


def test_redirects(world: World) -> None:
    answer = world.get("redirected", "/a/c")
    assert (answer.status, answer.headers["location"]) == (301, "http://other.test/b/c")


def test_direct_responses(world: World) -> None:
    answer = world.get("answered")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (418, b"teapot", "text/tea")


def test_faults_hit_the_share_they_name_and_none_by_default(world: World) -> None:
    assert world.get("faulty", "/abort").status == 555
    assert {world.get("faulty").status for _ in range(5)} == {200}


def test_timeouts(world: World) -> None:
    world.v1.delay_seconds = 0.5
    try:
        assert world.get("slow").status == 504
    finally:
        world.v1.delay_seconds = 0.0


def test_mirrors(world: World) -> None:
    with world.v2.expect("/shadow-42"):
        assert world.get("mirrored", "/shadow-42").json["app"] == "v1"
    shadow = next(entry for entry in world.v2.requests if entry["path"] == "/shadow-42")
    assert shadow["headers"]["host"] == "mirrored"  # no "-shadow" behind it


def test_one_user_stays_with_one_endpoint(world: World) -> None:
    by_user = {user: world.apps("sticky", 5, headers={"x-user": user}) for user in map(str, range(20))}
    assert all(len(apps) == 1 for apps in by_user.values())
    assert len({next(iter(apps)) for apps in by_user.values()}) == 2


def test_cors(world: World) -> None:
    preflight = {"origin": "https://shop.test", "access-control-request-method": "GET"}
    answer = world.get("cross", method="OPTIONS", headers=preflight)
    assert answer.headers["access-control-allow-origin"] == "https://shop.test"
    assert answer.headers["access-control-allow-methods"] == "GET"
    # Of an origin that is not allowed nothing is decided here: the application answers.
    other = world.get("cross", method="OPTIONS", headers={**preflight, "origin": "https://evil.test"})
    assert "access-control-allow-origin" not in other.headers
    assert other.json["app"] == "v1"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("api.test", 200, id="certificate-of-the-host"),
        pytest.param("impostor.test", 503, id="certificate-of-another-host"),
        pytest.param("named.test", 200, id="name-that-the-rule-wants"),
        pytest.param("misnamed.test", 503, id="name-that-the-rule-does-not-want"),
        pytest.param("unverified.test", 200, id="not-verified"),
    ],
)
def test_tls_to_the_world_outside(world: World, host: str, status: int) -> None:
    assert world.get(host).status == status


@pytest.mark.parametrize(("host", "flag"), [("empty", "UH"), ("missing", "NC")])
def test_nobody_there_is_503_and_says_why(world: World, host: str, flag: str) -> None:
    assert world.get(host).status == 503
    world.envoy.wait_for("istio_requests_total", above=0, response_code="503", response_flags=flag)


def test_a_port_in_the_host_does_not_matter(world: World) -> None:
    assert world.apps("plain:1234") == {"v1": 1}


def test_a_host_outside_the_registry_is_refused_where_only_the_registry_counts(world: World) -> None:
    assert world.get("nobody.test", port="closed").status == 502
    assert world.get("plain", port="closed").status == 200


def test_an_http_proxy_serves_absolute_addresses(world: World) -> None:
    answer = world.get("plain", "http://plain/page", port="http_proxy")
    assert (answer.json["app"], answer.json["path"]) == ("v1", "/page")
    assert world.get("nobody.test", port="http_proxy").status == 404


def test_a_captured_connection_goes_to_the_listener_of_its_destination(world: World) -> None:
    with dial(world.ports["virtual"], to=(VIP, SERVICE_PORT)) as sock:
        assert ask(sock).json["app"] == "v1"
    world.envoy.wait_for(
        "istio_tcp_connections_opened_total", destination_service=APP.hostname, destination_service_name="app"
    )


def test_an_unknown_destination_is_passed_through(world: World) -> None:
    with dial(world.ports["virtual"], to=("127.0.0.1", world.bytes.port)) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"app:hello"
    world.envoy.wait_for(
        "istio_tcp_connections_opened_total",
        destination_service="unknown",
        destination_service_name="PassthroughCluster",
    )


def test_a_request_for_an_unknown_host_is_passed_through(world: World) -> None:
    with dial(world.ports["virtual"], to=("127.0.0.1", world.v2.port)) as sock:
        assert ask(sock, host="elsewhere.test").json["app"] == "v2"
        # The same connection, now for a host that the registry knows: requests are routed one by one.
        assert ask(sock, host="plain").json["app"] == "v1"
    sample = world.envoy.wait_for("istio_requests_total", destination_service="elsewhere.test")
    assert sample.labels["destination_service_name"] == "PassthroughCluster"
    assert sample.labels["destination_service_namespace"] == "unknown"


def test_an_unknown_destination_leads_nowhere_where_only_the_registry_counts(world: World) -> None:
    with dial(world.ports["virtual-closed"], to=("127.0.0.1", world.bytes.port)) as sock:
        sock.sendall(b"hello")
        assert _read(sock) == b""
    world.envoy.wait_for("istio_tcp_connections_closed_total", destination_service_name="BlackHoleCluster")


def test_the_capture_port_itself_leads_nowhere(world: World) -> None:
    with dial(world.ports["virtual"], to=("127.0.0.1", world.ports["virtual"])) as sock:
        sock.sendall(b"hello")
        assert _read(sock) == b""


def _read(sock: Any) -> bytes:
    try:
        data: bytes = sock.recv(100)
    except ConnectionResetError:
        return b""
    return data


def test_bytes_on_an_http_port_are_not_taken_for_http(world: World) -> None:
    # Nobody but the passthrough could take them; it leads to the listener itself here, so nothing comes back.
    with dial(world.ports["closed"]) as sock:
        sock.sendall(b"\x00\x01\x02\x03 not http\r\n\r\n")
        assert _read(sock) == b""


def test_unknown_hosts_are_counted_by_the_name_they_asked_for(world: World) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        world.get("unused", port="virtual-closed")
    world.get("nobody.test", port="closed")
    sample = world.envoy.wait_for("istio_requests_total", destination_service="nobody.test", response_code="502")
    assert sample.labels["destination_service_name"] == "BlackHoleCluster"
