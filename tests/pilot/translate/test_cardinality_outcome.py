"""Labels that somebody makes up without end: how many series a real Envoy keeps, what that weighs, who is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import ConfigServer, RealEnvoy, ask, dial, make_identity
from tests.pilot.translate.cases import QUIET

from lateen.agent.standard_metrics import series_of
from lateen.pilot.model.values import REGISTRY_ONLY, OutboundListenerInput, RouteConfigInput
from lateen.pilot.model.values_telemetry import Metrics, Telemetry
from lateen.pilot.translate.clusters import build_fixed_clusters
from lateen.pilot.translate.listeners import build_outbound_listener
from lateen.pilot.translate.routes import build_route_config
from lateen.wire.label_text import KNOWN, SEPARATOR
from lateen.wire.series import MAX_COUNTERS, MAX_HISTOGRAMS, MAX_HOST, MAX_LABEL, MAX_SCRAPE_BYTES

pytestmark = pytest.mark.envoy

MOST_MEMORY = 200 << 20  # of Envoy beside what it has at rest; all series, and a scrape of them
PRINCIPAL = "spiffe://cluster.local/ns/secret/sa/bank"
BY_REQUEST = Telemetry(
    metrics=Metrics(
        labels=(("requests_total", (("asked", "request.path"), ("caller", "request.headers['x-caller']"))),)
    )
)


class Client(NamedTuple):
    envoy: RealEnvoy
    any_host: int
    by_request: int

    def memory(self) -> int:
        pid = self.envoy.pid
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

    def told(self) -> bytes:
        return self.envoy.admin("/stats/prometheus").encode()

    def left_out(self, kind: str) -> float:
        name = f"server_stats_overflow_{kind}"
        return sum(sample.value for sample in self.envoy.samples(name))


@pytest.fixture
def client(authority: StrangeAuthority, server: ConfigServer, folder: Path) -> Iterator[Client]:
    ports = (free_port(), free_port())
    listeners = [
        build_outbound_listener(
            OutboundListenerInput(
                bind="127.0.0.1", port=port, bind_to_port=True, http_route="blocked", telemetry=telemetry
            )
        )
        for port, telemetry in zip(ports, (QUIET, BY_REQUEST), strict=True)
    ]
    server.serve(
        "flooded",
        [
            *make_identity(authority, "web", "front").secrets(),
            *build_fixed_clusters(for_gateway=False),
            *listeners,
            build_route_config(RouteConfigInput(name="blocked", virtual_hosts=(), catch_all=REGISTRY_ONLY)),
        ],
    )
    with RealEnvoy("flooded", server, folder, stats_flush_interval="0.5s", stats_eviction_interval="5s") as envoy:
        yield Client(envoy, *ports)
    assert server.rejections == []


def refused(sock: socket.socket, request: str) -> None:
    sock.sendall(request.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4096) or b"HTTP/1.1 000 closed\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 502 ")


def test_series_memory_and_scrapes_have_an_end_and_room_is_made_again(client: Client) -> None:
    at_rest = client.memory()
    # Faster than what is idle makes room: twice as many hosts as there may be histograms' labels, and then paths and
    # headers where a Telemetry makes labels of them. Methods that nobody knows Envoy refuses before.
    with dial(client.any_host) as sock:
        for number in range(2 * MAX_HISTOGRAMS // 3):
            refused(sock, f"GET / HTTP/1.1\r\nhost: h{number}.test\r\n\r\n")
    with dial(client.by_request) as sock:
        for number in range(MAX_COUNTERS):
            refused(sock, f"GET /{number} HTTP/1.1\r\nhost: h\r\nx-caller: c{number}\r\n\r\n")
    text = client.told()
    found = series_of(text)
    assert 0 < found["counter"] <= MAX_COUNTERS
    assert 0 < found["histogram"] <= MAX_HISTOGRAMS
    assert len(text) < MAX_SCRAPE_BYTES
    assert client.memory() - at_rest < MOST_MEMORY
    assert client.left_out("histogram") > 0
    assert client.left_out("counter") > 0

    deadline = time.monotonic() + 30
    while series_of(client.told()) != {"counter": 0, "histogram": 0}:
        assert time.monotonic() < deadline, series_of(client.told())
        threading.Event().wait(0.5)
    with dial(client.any_host) as sock:
        ask(sock, host="again.test")
    for metric in ("istio_requests_total", "istio_request_bytes_count"):
        assert client.envoy.wait_for(metric, above=0, destination_service="again.test").value == 1


@pytest.mark.parametrize(
    ("host", "believed"),
    [
        (f"x{SEPARATOR}y", ""),
        (f"{KNOWN}bank.secret|bank|secret", ""),
        (f"h{SEPARATOR}{SEPARATOR}{SEPARATOR}{PRINCIPAL}", ""),
        ("bank.secret|bank|secret", ""),
        ("a;b", "BlackHoleCluster"),  # may be a host
    ],
)
def test_a_host_header_stays_one_label_whatever_it_holds(client: Client, host: str, believed: str) -> None:
    with dial(client.any_host) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 502 " if believed == "BlackHoleCluster" else b"HTTP/1.1 400 ")
    with dial(client.any_host) as sock:
        ask(sock, host="after.test")
    client.envoy.wait_for("istio_requests_total", above=0, destination_service="after.test")
    samples = [sample.labels for sample in client.envoy.samples("istio_requests_total")]
    told = [labels for labels in samples if labels["destination_service"] == host]
    assert [labels["destination_service_name"] for labels in told] == ([believed] if believed else [])
    for labels in samples:
        assert labels["destination_service_name"] in ("unknown", "BlackHoleCluster")
        assert labels["destination_service_namespace"] == labels["destination_principal"] == "unknown"


def test_labels_have_a_length_that_ends(client: Client) -> None:
    with dial(client.by_request) as sock:
        ask(sock, "/" + "p" * 5000, host="h" * 5000, headers={"x-caller": "c" * 5000})
    sample = client.envoy.wait_for("istio_requests_total")
    assert sample.labels["destination_service"] == "h" * MAX_HOST
    assert sample.labels["asked"] == "/" + "p" * (MAX_LABEL - 1)
    assert sample.labels["caller"] == "c" * MAX_LABEL
