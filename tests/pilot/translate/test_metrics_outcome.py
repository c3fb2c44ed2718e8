"""The standard metrics of two real sidecars, label by label: what each counts of what passes, fails, or is refused.

Each case names what a client did and all that both sides must say of it. A metric is wanted with exactly these labels,
no more and no fewer: an empty label is none to Prometheus.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from tests.e2e.harness import eventually
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    AnyApp,
    ConfigServer,
    HttpApp,
    RealEnvoy,
    Sample,
    ask,
    dead_port,
    dial,
    make_identity,
)
from tests.fakes.tokens import jwks
from tests.pilot.translate.authz_cases import in_force
from tests.pilot.translate.cases import QUIET, cluster, inbound, inbound_port, route

from lateen.api import virtual_service as vs
from lateen.api.protocol import Protocol
from lateen.api.providers import ExtAuthzHttp
from lateen.expr import compile_expression
from lateen.expr.envoy import Where, to_envoy
from lateen.pilot.model.values import (
    REGISTRY_ONLY,
    Destination,
    EndpointInput,
    EndpointsInput,
    Hostname,
    MirrorInput,
    MtlsMode,
    OutboundListenerInput,
    Peer,
    RouteConfigInput,
    RouteInput,
    ServiceRef,
    TcpRoute,
    VirtualHostInput,
)
from lateen.pilot.model.values_authz import Authorization, Authorizer, Spelling
from lateen.pilot.model.values_called import Condition, Inside, Limit, MixerCalls, Refusal
from lateen.pilot.model.values_jwt import RequestAuth, TokenFilterInput, TokenIssuer
from lateen.pilot.model.values_telemetry import Metrics, Telemetry
from lateen.pilot.translate.clusters import build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.jwt import build_token_filter
from lateen.pilot.translate.listeners import build_outbound_listener
from lateen.pilot.translate.names import PASSTHROUGH, outbound_cluster_name
from lateen.pilot.translate.routes import build_route_config

pytestmark = pytest.mark.envoy

SERVER_ADDRESS = "127.77.0.4"
APP = ServiceRef(hostname=Hostname("app.back.svc.cluster.local"), name="app", namespace="back")
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
ALL = vs.Percent(value=100.0)
PARTS = ("workload", "workload_namespace", "cluster", "app", "version", "canonical_service", "canonical_revision")

CLIENT = {
    "source_workload": "web-v2",
    "source_workload_namespace": "front",
    "source_cluster": "Kubernetes",
    "source_app": "web",
    "source_version": "v2",
    "source_canonical_service": "web",
    "source_canonical_revision": "v2",
    "source_principal": WEB,
}
SERVICE = {
    "destination_service": "app.back.svc.cluster.local",
    "destination_service_name": "app",
    "destination_service_namespace": "back",
}
SERVER = {
    "destination_workload": "app-v1",
    "destination_workload_namespace": "back",
    "destination_cluster": "Kubernetes",
    "destination_app": "app",
    "destination_version": "v1",
    "destination_canonical_service": "app",
    "destination_canonical_revision": "v1",
    "destination_principal": BACK,
    **SERVICE,
}
NO_SERVER = {f"destination_{part}": "unknown" for part in (*PARTS, "principal")}
# Bytes carry no header, so of a client the certificate tells alone.
CERTIFIED = {**{f"source_{part}": "unknown" for part in PARTS}, "source_workload_namespace": "front"} | {
    "source_principal": WEB
}
STRANGER = {f"source_{part}": "unknown" for part in (*PARTS, "principal")}

SOURCE = {"reporter": "source", "connection_security_policy": "unknown"}
DESTINATION = {"reporter": "destination", "connection_security_policy": "mutual_tls"}

HTTP_METRICS = (
    "istio_requests_total",
    "istio_request_duration_milliseconds_count",
    "istio_request_bytes_count",
    "istio_response_bytes_count",
)
MESSAGES = ("istio_request_messages_total", "istio_response_messages_total")
TCP_METRICS = (
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
)


def http(code: str, flags: str = "-") -> dict[str, str]:
    return {"request_protocol": "http", "response_code": code, "response_flags": flags}


def rpc(status: str, *, code: str = "200", flags: str = "-") -> dict[str, str]:
    return {**http(code, flags), "request_protocol": "grpc", "grpc_response_status": status}


def tcp(flags: str = "-") -> dict[str, str]:
    return {"request_protocol": "tcp", "response_flags": flags}


class Mesh(NamedTuple):
    ports: dict[str, int]
    web: RealEnvoy
    app: RealEnvoy
    http: HttpApp

    def side(self, labels: Mapping[str, str]) -> RealEnvoy:
        return self.web if labels["reporter"] == "source" else self.app


class Grpc:
    """An application with a method of each kind; `Hold` answers twice and then waits for its client to go."""

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        methods = {
            "Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
            "Hold": grpc.stream_stream_rpc_method_handler(self._hold),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("app.App", methods),))
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Grpc:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        return b""

    def _talk(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request
            yield request

    def _hold(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        gone = threading.Event()
        context.add_callback(gone.set)
        yield next(requests)
        yield next(requests)
        gone.wait(20)


@dataclass(frozen=True)
class Served:
    """One port: what the sidecar listens on, what the client takes it for, and where the application is."""

    port: int
    protocol: Protocol
    app: int


@pytest.fixture(scope="module")
def mesh(authority: StrangeAuthority, server: ConfigServer, folder: Path) -> Iterator[Mesh]:
    with ExitStack() as stack:
        app = stack.enter_context(HttpApp("app"))
        rpcs = stack.enter_context(Grpc())
        anything = stack.enter_context(AnyApp())
        dead = stack.enter_context(dead_port())
        served = {
            name: Served(free_port(SERVER_ADDRESS), protocol, port)
            for name, (protocol, port) in {
                "http": (Protocol.HTTP, app.port),
                "grpc": (Protocol.GRPC, rpcs.port),
                "quiet": (Protocol.GRPC, rpcs.port),
                "tcp": (Protocol.TCP, anything.port),
                "dead": (Protocol.HTTP, dead),
                "dead-tcp": (Protocol.TCP, dead),
            }.items()
        }
        server.serve("app-v1", [*make_identity(authority, "app", "back").secrets(), *_server(served)])
        ports = {
            name: free_port()
            for name in (*served, "mirrored", "slow", "nobody", "faulty", "away", "blocked", "hung-up")
        }
        server.serve("web-v2", [*make_identity(authority, "web", "front").secrets(), *_client(served, ports, app.port)])
        sidecar = RealEnvoy("app-v1", server, folder, namespace="back", labels={"app": "app", "version": "v1"})
        client = RealEnvoy("web-v2", server, folder, namespace="front", labels={"app": "web", "version": "v2"})
        stack.enter_context(sidecar)
        stack.enter_context(client)
        yield Mesh({**ports, "plain": served["http"].port}, client, sidecar, app)
    assert server.rejections == []


def _server(served: Mapping[str, Served]) -> Iterable[Any]:
    # Without ports they would be of connections too, where paths cannot be told.
    ports = [str(served["http"].port), str(served["grpc"].port)]

    def on_paths(paths: str) -> str:
        return f"rules: [{{to: [{{operation: {{paths: [{paths}], ports: {ports}}}}}]}}]"

    back = inbound(
        *(
            inbound_port(
                port=entry.port,
                service_port=entry.port,
                protocol=entry.protocol,
                mtls=MtlsMode.PERMISSIVE,
                service=APP,
                bind=SERVER_ADDRESS,
                forward=f"127.0.0.1:{entry.app}",
            )
            for entry in served.values()
        ),
        capture=False,
        trust_domains=("cluster.local",),
        spelling=Spelling(paths="DECODE_AND_MERGE_SLASHES"),
        request_auth=RequestAuth(enabled=True),
        mixer=MixerCalls(namespace="back", inside=_rules()),
        authorization=Authorization(
            policies=in_force(
                "action: DENY\n" + on_paths("/denied, /app.App/Denied"),
                "action: CUSTOM\nprovider: {name: lost}\n" + on_paths("/asked"),
            ),
            trust_domains=("cluster.local",),
            # Envoy asks a cluster that nobody serves, and refuses as the answer would have it.
            authorizers=(
                Authorizer(name="lost", cluster="away", authority="away", http=ExtAuthzHttp(service="away", port=80)),
            ),
        ),
    )
    tokens = build_token_filter(TokenFilterInput(issuers=(TokenIssuer(keys=jwks("ec")),)))
    return [tokens, *build_inbound_clusters(back), *build_inbound_listeners(back)]


def _rules() -> Inside:
    where = Where(http=True, namespace="back", kind="inbound")

    def on_path(path: str) -> Condition:
        tree = to_envoy(compile_expression(f"request.url_path == '{path}'"), where).tree
        return Condition(tree, tree)

    hour = timedelta(hours=1)
    limit = Limit(rule="back/once", limit=1, per=hour, condition=on_path("/limited"), by=(), status=429, body="enough")
    return Inside(denies=(Refusal(rule="back/gone", condition=on_path("/gone"), status=410),), limits=(limit,))


def _client(served: Mapping[str, Served], ports: Mapping[str, int], app: int) -> Iterable[Any]:
    yield from build_fixed_clusters(for_gateway=False)
    to: dict[str, Destination] = {}
    for name, entry in served.items():
        inp = cluster(service=APP, port=entry.port, protocol=entry.protocol, sans=(BACK,))
        to[name] = Destination(cluster=outbound_cluster_name(APP.hostname, entry.port))
        endpoint = EndpointInput(address=SERVER_ADDRESS, port=entry.port, mtls=True, peer=SERVER_PEER)
        yield build_outbound_cluster(inp)
        yield build_endpoints(EndpointsInput(cluster=to[name].cluster, endpoints=(endpoint,)))
        if entry.protocol is Protocol.TCP:
            yield _listener(ports[name], tcp=(TcpRoute(destinations=(to[name],), stat_prefix=name),))
        else:
            silent = Telemetry(metrics=Metrics(off=("request_messages_total", "response_messages_total")))
            yield _listener(ports[name], http=name, telemetry=silent if name == "quiet" else QUIET)
            yield _routes(name, route(destinations=(to[name],)))
    empty = cluster(service=APP, port=1, sans=(BACK,))
    nobody = Destination(cluster=outbound_cluster_name(APP.hostname, 1))
    yield build_outbound_cluster(empty)
    yield build_endpoints(EndpointsInput(cluster=nobody.cluster, endpoints=()))
    mirror = MirrorInput(cluster=to["http"].cluster, percent=100.0)
    for name, found in {
        "mirrored": route(destinations=(to["http"],), mirrors=(mirror,)),
        "hung-up": route(destinations=(to["http"],), retries=vs.HTTPRetry(attempts=0)),
        "slow": route(destinations=(to["http"],), timeout=timedelta(milliseconds=200)),
        "nobody": route(destinations=(nobody,)),
        "faulty": route(
            destinations=(to["http"],),
            fault=vs.HTTPFaultInjection(abort=vs.FaultAbort(http_status=418, percentage=ALL)),
        ),
        "away": route(destinations=(Destination(cluster=PASSTHROUGH),)),
    }.items():
        yield _listener(ports[name], http=name)
        yield _routes(name, found)
    yield _listener(ports["blocked"], http="blocked")
    yield build_route_config(RouteConfigInput(name="blocked", virtual_hosts=(), catch_all=REGISTRY_ONLY))


def _listener(port: int, *, http: str = "", tcp: tuple[TcpRoute, ...] = (), telemetry: Telemetry = QUIET) -> Any:
    return build_outbound_listener(
        OutboundListenerInput(
            bind="127.0.0.1", port=port, bind_to_port=True, http_route=http, tcp=tcp, telemetry=telemetry
        )
    )


def _routes(name: str, found: RouteInput) -> Any:
    host = VirtualHostInput(name=name, domains=("*",), routes=(found,))
    return build_route_config(RouteConfigInput(name=name, virtual_hosts=(host,)))


# ---------------------------------------------------------------- what is told


def find(mesh: Mesh, metric: str, labels: Mapping[str, str]) -> list[Sample]:
    """Return the samples of `metric` with exactly these labels, at the proxy that reports them."""
    return [
        sample
        for sample in mesh.side(labels).samples(metric)
        if {name: value for name, value in sample.labels.items() if value} == labels
    ]


def value(mesh: Mesh, metric: str, labels: Mapping[str, str]) -> float:
    return sum(sample.value for sample in find(mesh, metric, labels))


class Counted:
    """What metrics were before something was done; afterwards, by how much they must have grown."""

    def __init__(self, mesh: Mesh, metrics: Iterable[str], *sides: Mapping[str, str]) -> None:
        self._mesh = mesh
        self._before = {
            (metric, tuple(sorted(labels.items()))): value(mesh, metric, labels)
            for metric in metrics
            for labels in sides
        }

    def grew(self, **by: float) -> None:
        """Wait until all grew by one, or by what `by` says of a metric; and see that none grew by more."""
        wanted = {key: before + by.get(key[0], 1) for key, before in self._before.items()}
        deadline = time.monotonic() + 10
        while True:
            found = {key: value(self._mesh, key[0], dict(key[1])) for key in wanted}
            if found == wanted:
                return
            assert time.monotonic() < deadline, [
                (key[0], dict(key[1])["reporter"], found[key], "wanted", wanted[key], self._near(key[0], dict(key[1])))
                for key in wanted
                if found[key] != wanted[key]
            ]
            threading.Event().wait(0.05)

    def _near(self, metric: str, labels: dict[str, str]) -> list[set[tuple[str, str]]]:
        """Return how the series that there are differ from the one that is wanted."""
        return [
            {pair for pair in sample.labels.items() if pair[1]} ^ labels.items()
            for sample in self._mesh.side(labels).samples(metric)
        ]


def both(kind: Mapping[str, str], server_kind: Mapping[str, str] | None = None) -> tuple[dict[str, str], ...]:
    """Return the labels of both sides, of a request or connection that both of them know all of."""
    return (
        {**CLIENT, **SERVER, **SOURCE, **kind},
        {**CLIENT, **SERVER, **DESTINATION, **(kind if server_kind is None else server_kind)},
    )


@pytest.mark.parametrize(
    ("path", "headers", "code", "flags"),
    [
        pytest.param("/", {}, "200", "-", id="answered"),
        pytest.param("/denied", {}, "403", "-", id="denied-by-a-policy"),
        pytest.param("/public/;/hidden", {}, "403", "-", id="denied-for-its-spelling"),
        pytest.param("/asked", {}, "403", "UAEX", id="denied-by-a-provider"),
        pytest.param("/", {"authorization": "Bearer no-token"}, "401", "-", id="denied-for-its-token"),
    ],
)
def test_http_has_all_labels_on_both_sides_answered_or_denied(
    mesh: Mesh, path: str, headers: dict[str, str], code: str, flags: str
) -> None:
    counted = Counted(mesh, HTTP_METRICS, *both(http(code), http(code, flags)))
    with dial(mesh.ports["http"]) as sock:
        assert ask(sock, path, headers=headers).status == int(code)
    counted.grew()


def test_what_rules_of_mixer_refuse_is_counted(mesh: Mesh) -> None:
    """By Envoy itself: a denial with a status of the rule's, and a limit of the proxy's own."""
    counted = Counted(mesh, HTTP_METRICS, *both(http("410"), http("410", "-")))
    with dial(mesh.ports["http"]) as sock:
        assert ask(sock, "/gone").status == 410
    counted.grew()
    with dial(mesh.ports["http"]) as sock:
        assert ask(sock, "/limited").status == 200  # the only one in an hour
        counted = Counted(mesh, HTTP_METRICS, *both(http("429"), http("429", "RL")))
        assert ask(sock, "/limited").status == 429
    counted.grew()


def test_an_answer_of_the_application_is_counted_as_such(mesh: Mesh) -> None:
    mesh.http.statuses.append(500)
    counted = Counted(mesh, HTTP_METRICS, *both(http("500")))
    with dial(mesh.ports["hung-up"]) as sock:
        assert ask(sock).status == 500
    counted.grew()


def test_a_client_without_a_certificate_is_nobody(mesh: Mesh) -> None:
    plain = {"reporter": "destination", "connection_security_policy": "none"}
    server = {**SERVER, "destination_principal": "unknown"}
    counted = Counted(mesh, HTTP_METRICS, {**STRANGER, **server, **plain, **http("200")})
    with dial(mesh.ports["plain"], host=SERVER_ADDRESS) as sock:
        assert ask(sock).status == 200
    counted.grew()


def test_a_refused_connection_is_tried_again_and_counted_once(mesh: Mesh) -> None:
    counted = Counted(mesh, HTTP_METRICS, *both(http("503"), http("503", "URX,UF")))
    with dial(mesh.ports["dead"]) as sock:
        assert ask(sock).status == 503
    counted.grew()


def test_a_timeout_is_counted_by_both_sides_with_their_own_reasons(mesh: Mesh) -> None:
    client, server = both(http("504", "UT"), http("0", "DC"))
    counted = Counted(mesh, HTTP_METRICS, client, server)
    mesh.http.delay_seconds = 5
    try:
        with dial(mesh.ports["slow"]) as sock:
            assert ask(sock).status == 504
        counted.grew()
    finally:
        mesh.http.released.set()
        mesh.http.delay_seconds = 0
        mesh.http.released.clear()


def test_an_aborted_request_never_met_a_server(mesh: Mesh) -> None:
    labels = {**CLIENT, **SERVER, **NO_SERVER, **SOURCE, **http("418", "FI"), "source_principal": "unknown"}
    counted = Counted(mesh, HTTP_METRICS, labels)
    with dial(mesh.ports["faulty"]) as sock:
        assert ask(sock).status == 418
    counted.grew()


def test_a_service_without_endpoints_is_still_named(mesh: Mesh) -> None:
    labels = {**CLIENT, **NO_SERVER, **SERVICE, **SOURCE, **http("503", "UH"), "source_principal": "unknown"}
    counted = Counted(mesh, HTTP_METRICS, labels)
    with dial(mesh.ports["nobody"]) as sock:
        assert ask(sock).status == 503
    counted.grew()


@pytest.mark.parametrize(
    ("port", "code", "flags", "name"),
    [("blocked", "502", "-", "BlackHoleCluster"), ("away", "503", "UH", "PassthroughCluster")],
)
def test_what_is_no_service_has_the_name_of_where_it_went(
    mesh: Mesh, port: str, code: str, flags: str, name: str
) -> None:
    labels = {
        **CLIENT,
        **NO_SERVER,
        **SOURCE,
        **http(code, flags),
        "source_principal": "unknown",
        "destination_service": "outside.test",
        "destination_service_name": name,
        "destination_service_namespace": "unknown",
    }
    counted = Counted(mesh, HTTP_METRICS, labels)
    with dial(mesh.ports[port]) as sock:
        assert ask(sock, host="outside.test").status == int(code)
    counted.grew()


def test_a_mirrored_request_is_one_at_its_client_and_two_at_its_server(mesh: Mesh) -> None:
    client, server = both(http("200"))
    at_client, at_server = Counted(mesh, HTTP_METRICS, client), Counted(mesh, HTTP_METRICS, server)
    with mesh.http.expect("/mirrored"), dial(mesh.ports["mirrored"]) as sock:
        assert ask(sock, "/mirrored").status == 200
    at_server.grew(**dict.fromkeys(HTTP_METRICS, 2))
    at_client.grew()


# ---------------------------------------------------------------- gRPC


def channel(mesh: Mesh, port: str = "grpc") -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{mesh.ports[port]}", options=[("grpc.use_local_subchannel_pool", 1)])


def test_grpc_has_all_labels_and_its_messages_counted(mesh: Mesh) -> None:
    counted = Counted(mesh, (*HTTP_METRICS, *MESSAGES), *both(rpc("0")))
    with channel(mesh) as calls:
        assert calls.unary_unary("/app.App/Echo")(b"ping", timeout=5) == b"ping"
    counted.grew()


@pytest.mark.parametrize(("path", "status"), [("/app.App/Fail", "7"), ("/app.App/Unheard", "12")])
def test_a_call_that_fails_has_its_status_and_no_answer(mesh: Mesh, path: str, status: str) -> None:
    counted = Counted(mesh, (*HTTP_METRICS, MESSAGES[1]), *both(rpc(status)))
    with channel(mesh) as calls, pytest.raises(grpc.RpcError):
        calls.unary_unary(path)(b"ping", timeout=5)
    counted.grew(istio_response_messages_total=0)


def test_a_call_that_is_denied_is_labelled_and_no_message_of_it_came(mesh: Mesh) -> None:
    counted = Counted(mesh, (*HTTP_METRICS, MESSAGES[1]), *both(rpc("7")))
    with channel(mesh) as calls, pytest.raises(grpc.RpcError) as refused:
        calls.unary_unary("/app.App/Denied")(b"ping", timeout=5)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    counted.grew(istio_response_messages_total=0)


def test_messages_both_ways_are_counted_whatever_their_size(mesh: Mesh) -> None:
    sizes = (0, 1, 5, 16_384, 70_000, 3)  # some share a frame of HTTP/2, some take several
    counted = Counted(mesh, ("istio_requests_total", *MESSAGES), *both(rpc("0")))
    with channel(mesh) as calls:
        answers = list(calls.stream_stream("/app.App/Talk")(iter([b"x" * size for size in sizes]), timeout=10))
    assert [len(answer) for answer in answers] == [size for size in sizes for _ in range(2)]
    counted.grew(istio_request_messages_total=len(sizes), istio_response_messages_total=2 * len(sizes))


def test_a_stream_that_its_client_leaves_is_counted_as_far_as_it_came(mesh: Mesh) -> None:
    counted = Counted(
        mesh,
        ("istio_requests_total", *MESSAGES),
        *both(rpc("2", flags="DR")),
    )
    going = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        going.wait(20)

    with channel(mesh) as calls:
        stream = calls.stream_stream("/app.App/Hold")(requests(), timeout=20)
        assert [next(stream), next(stream)] == [b"one", b"two"]  # so both are through
        stream.cancel()
        going.set()
        counted.grew(istio_request_messages_total=2, istio_response_messages_total=2)


def test_a_server_of_plain_http_counts_no_messages(mesh: Mesh) -> None:
    """Its application is spoken to in HTTP/1.1, so there are none, and no request pays for looking."""
    client, server = both({**http("200"), "request_protocol": "grpc"})

    def counts() -> dict[str, float]:
        return {
            f"{labels['reporter']} {metric}": _of_any_status(mesh, metric, labels)
            for labels in (client, server)
            for metric in ("istio_requests_total", MESSAGES[0])
        }

    before = counts()
    with dial(mesh.ports["http"]) as sock:
        # Its answer is JSON: that is what the metrics are asked about, and not whether the call is a good one.
        head = b"POST / HTTP/1.1\r\nhost: app\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\n"
        sock.sendall(head + bytes(5))
        assert sock.recv(12) == b"HTTP/1.1 200"
    by = {f"{side} istio_requests_total": 1 for side in ("source", "destination")} | {f"source {MESSAGES[0]}": 1}
    wanted = {name: value + by.get(name, 0) for name, value in before.items()}
    eventually(lambda: counts() == wanted, what=f"{counts()} is {wanted}")


def _of_any_status(mesh: Mesh, metric: str, labels: Mapping[str, str]) -> float:
    """Return the sum of the samples with these labels, whatever the status of gRPC."""
    return sum(
        sample.value
        for sample in mesh.side(labels).samples(metric)
        if {name: value for name, value in sample.labels.items() if value and name != "grpc_response_status"} == labels
    )


def test_messages_that_nobody_wants_counted_are_not(mesh: Mesh) -> None:
    client, server = both(rpc("0"))
    at_server, at_client = Counted(mesh, MESSAGES, server), Counted(mesh, MESSAGES, client)
    with channel(mesh, "quiet") as calls:
        assert calls.unary_unary("/app.App/Echo")(b"ping", timeout=5) == b"ping"
    at_server.grew()
    at_client.grew(**dict.fromkeys(MESSAGES, 0))


# ---------------------------------------------------------------- TCP


def test_tcp_has_all_labels_that_bytes_allow(mesh: Mesh) -> None:
    client, server = both(tcp())
    counted = Counted(mesh, TCP_METRICS, client, {**server, **CERTIFIED})
    with dial(mesh.ports["tcp"]) as sock:
        sock.sendall(b"\x00hello")
        assert sock.recv(100) == b"app:\x00hello"
    counted.grew(istio_tcp_sent_bytes_total=10, istio_tcp_received_bytes_total=6)


def test_a_connection_to_nobody_is_counted_with_its_reason(mesh: Mesh) -> None:
    _, server = both(tcp("UF,URX"))
    counted = Counted(mesh, TCP_METRICS[:2], {**server, **CERTIFIED})
    with dial(mesh.ports["dead-tcp"]) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b""
    counted.grew()
