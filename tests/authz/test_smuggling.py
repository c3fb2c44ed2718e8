"""A request that is hidden in another one reaches no server as its own, past no policy. Assurance 28."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from tests.authz.smuggling_corpus import Smuggle, attacks
from tests.fakes.comparing import Guarded, in_force
from tests.fakes.court import NETWORK, Case, Client, Court
from tests.fakes.ports import free_port
from tests.fakes.raw_http import RawH2, send_h1
from tests.fakes.web_servers import WebServer, apache, nginx
from tests.pilot.translate.cases import QUIET, REVIEWS, cluster, host, route

from lateen.pilot.model.values import (
    AutoMtls,
    Destination,
    EndpointInput,
    EndpointsInput,
    GatewayListenerInput,
    GatewayServer,
    RouteConfigInput,
)
from lateen.pilot.translate.clusters import build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.gateway import build_gateway_listener
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.routes import build_route_config

pytestmark = pytest.mark.envoy

WORKERS = 300  # nearly all of them wait for an answer that does not come
NGINX, APACHE = 8101, 8102
POLICY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "no-smuggling"},
    "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/smuggled*"]}}]}]},
}
ASKED = re.compile(rb"x-asked: ([^\r\n]*)", re.IGNORECASE)

Dial = Callable[[], socket.socket]


class Way(NamedTuple):
    """One way to a server: at which port of whose proxy."""

    name: str
    server: WebServer
    dial: Dial


class Place(NamedTuple):
    servers: tuple[WebServer, ...]
    ways: tuple[Way, ...]  # through proxies


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    fields = in_force(Guarded([POLICY], []).objects)
    with ExitStack() as stack:
        servers = {NGINX: stack.enter_context(nginx()), APACHE: stack.enter_context(apache())}
        ports = {port: server.port for port, server in servers.items()}
        court = stack.enter_context(Court(tmp_path_factory.mktemp("s"), http=ports))
        case = Case(fields)
        gateways = {port: free_port(f"{NETWORK}.0.1") for port in servers}
        court.hold([case], extra=[m for port in servers for m in gateway(gateways[port], servers[port], fields)])
        ways = []
        for port, server in servers.items():
            client = Client(to=("10.77.0.10", port))
            ways.append(Way(f"sidecar of {server.name}", server, lambda client=client: court.connect(case, client)))
            address = (f"{NETWORK}.0.1", gateways[port])
            ways.append(Way(f"gateway of {server.name}", server, lambda at=address: socket.create_connection(at, 5)))
        yield Place(tuple(servers.values()), tuple(ways))


def gateway(port: int, server: WebServer, fields: dict[str, Any]) -> list[Message]:
    """Return a gateway's listener, guarded by `fields`, and all that it leads to `server` by."""
    hostname = f"{server.name}.default.svc.cluster.local"
    name = outbound_cluster_name(hostname, 9080)
    service = replace(REVIEWS, hostname=hostname)
    everywhere = host(route(destinations=(Destination(cluster=name),)), name=f"{server.name}:80", domains=("*",))
    return [
        build_gateway_listener(
            GatewayListenerInput(
                bind=f"{NETWORK}.0.1",
                port=port,
                servers=(GatewayServer(http_route=server.name),),
                telemetry=QUIET,
                **fields,
            )
        ),
        build_outbound_cluster(cluster(service=service, auto_mtls=AutoMtls.OFF, sans=(), for_gateway=True)),
        build_endpoints(
            EndpointsInput(cluster=name, endpoints=(EndpointInput(address="127.0.0.1", port=server.port),))
        ),
        build_route_config(RouteConfigInput(name=server.name, virtual_hosts=(everywhere,))),
    ]


def attempt(dial: Dial, smuggle: Smuggle) -> bytes:
    """Return all that comes back for one attempt and, on its connection, for an honest request behind it."""
    honest = (
        b"GET /public/page.txt?behind-%d HTTP/1.1\r\nhost: public.test\r\nconnection: close\r\n\r\n" % smuggle.number
    )
    try:
        with dial() as sock:
            if smuggle.raw:
                return send_h1(sock, smuggle.raw + honest)
            answer = RawH2(sock).ask(smuggle.fields, smuggle.body)
            return b"".join(name + b": " + value + b"\r\n" for name, value in answer.fields) + answer.body
    except OSError:
        return b""


def try_all(jobs: Sequence[tuple[Dial, Smuggle]]) -> list[bytes]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda job: attempt(*job), jobs))


def hidden_in(log: Sequence[str]) -> set[int]:
    """Return the numbers of hidden requests that a server took for requests."""
    return {int(found[1]) for line in log if (found := re.match(r"\S+ /smuggled-(\d+)", line))}


def test_hidden_requests_reach_servers_without_a_proxy(place: Place) -> None:
    """What servers make of the attempts by themselves: without that the others would prove nothing."""
    for server in place.servers:
        known = attacks(100_000)
        before = len(server.asked())
        try_all(
            [
                (lambda at=("127.0.0.1", server.port): socket.create_connection(at, 5), smuggle)
                for smuggle in known
                if smuggle.raw
            ]
        )
        reached = hidden_in(server.asked()[before:])
        kinds = Counter(smuggle.kind for smuggle in known if smuggle.number in reached)
        print(f"{server.name}: {len(reached)} of {sum(bool(entry.raw) for entry in known)} reach it: {dict(kinds)}")
        assert len(reached) > 40
        assert {"chunks", "one after the other", "early data after an upgrade"} <= kinds.keys()


def test_no_hidden_request_gets_past_a_policy(place: Place) -> None:
    before = {server.name: len(server.asked()) for server in place.servers}
    jobs = []
    for number, way in enumerate(place.ways):
        jobs += [(way, smuggle) for smuggle in attacks((number + 2) * 100_000)]
    answers = try_all([(way.dial, smuggle) for way, smuggle in jobs])
    by_number = {smuggle.number: (way, smuggle) for way, smuggle in jobs}
    for server in place.servers:
        through = [by_number[number] for number in hidden_in(server.asked()[before[server.name] :])]
        assert [f"{way.name}: {smuggle.shown}" for way, smuggle in through] == []
    # Each answer is to a request of its own connection: none was left over for somebody else.
    strange = [
        f"{way.name}: {asked!r} came back for {smuggle.shown}"
        for (way, smuggle), answer in zip(jobs, answers, strict=True)
        for asked in ASKED.findall(answer)
        if b"%d" % smuggle.number not in asked
    ]
    assert strange == []
    # And an honest request behind another one is answered, so something was tried.
    assert sum(b"x-asked" in answer for answer in answers) > len(jobs) / 10


@pytest.mark.parametrize("at", range(4))
def test_honest_requests_go_on_as_before(place: Place, at: int) -> None:
    way = place.ways[at]
    for number in range(20):
        with way.dial() as sock:
            answer = send_h1(
                sock, b"GET /public/page.txt?after-%d HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % number
            )
        assert ASKED.findall(answer) == [b"GET /public/page.txt?after-%d HTTP/1.1" % number]
