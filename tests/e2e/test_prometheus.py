"""A Prometheus from Debian scrapes a mesh, and the queries of docs/observability.md return what was sent.

Counts are compared with what the clients sent, one by one. Times are compared where a histogram's bucket is wide enough
to hold them on any machine.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import servers
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(240)]

APPS = Path(__file__).parent / "apps"
DOCS = Path(__file__).parents[2] / "docs" / "observability.md"
OK, FAILED, DENIED, GRPC, SLOW, THROUGH, SIZE = 30, 10, 7, 12, 8, 9, 64_000
ID = "spiffe://cluster.local/ns/default/sa"

CONFIG = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: private}
spec:
  selector: {matchLabels: {app: echo}}
  action: DENY
  rules: [{to: [{operation: {paths: [/private]}}]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: ["*"]
  gateways: [web]
  http: [{route: [{destination: {host: echo, port: {number: 9080}}}]}]
---
# Each request is one request: a failed one is not tried again.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http: [{route: [{destination: {host: echo}}], retries: {attempts: 0}}]
"""


def queries() -> dict[str, str]:
    """Return the queries of the page, by the name in their first line."""
    blocks = re.findall(r"^```promql\n# ([^\n]+)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return dict(blocks)


class Scraped:
    """The mesh with its Prometheus."""

    def __init__(self, mesh: MeshRun) -> None:
        self.mesh = mesh
        self.metrics, self.port = free_port(), free_port()
        mesh.extra = ["--metrics-listen", f"127.0.0.1:{self.metrics}"]

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, query: str, *names: str) -> dict[tuple[str, ...], float]:
        """Return the values of a query by those of its labels that are named."""
        found = self.ask("query", query=query)["result"]
        return {tuple(one["metric"].get(name, "") for name in names): float(one["value"][1]) for one in found}

    def becomes(self, query: str, names: tuple[str, ...], wanted: Mapping[tuple[str, ...], float]) -> None:
        """Wait until a query returns these values, beside others."""
        eventually(
            lambda: wanted.items() <= self.value(query, *names).items() or pytest.fail,
            what=f"{query} is {wanted}",
        )


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    servers.command("prometheus", "prometheus")
    mesh = MeshRun()
    scraped = Scraped(mesh)
    annotations = ["--annotation", "prometheus.io/scrape=true", "--annotation", "prometheus.io/port=9080"]
    try:
        mesh.write("mesh.yaml", CONFIG)
        mesh.up()
        for name, words in (("echo", annotations), ("slow", []), ("client", [])):
            mesh.workload(name, "v1", [sys.executable, str(ECHO)], words=["--service-account", name, *words])
        grpc = [sys.executable, str(APPS / "grpc_echo.py")]
        mesh.workload("calls", "v1", grpc, port="grpc:7070", env={"SERVICE_VERSION": "v1"})
        mesh.workload("bytes", "v1", [sys.executable, str(APPS / "bytes.py"), "whole:9000"], port="tcp:9000")
        mesh.gateway()
        mesh.wait_ready("echo-v1", "slow-v1", "client-v1", "calls-v1", "bytes-v1", "ingressgateway")
        config = mesh.run("prometheus-config", "--metrics", f"127.0.0.1:{scraped.metrics}", "--every", "1s")
        assert config.returncode == 0, config.stderr
        folder = mesh.root / "prometheus"
        folder.mkdir()
        mesh.start("prometheus", servers.prometheus(folder, config.stdout, scraped.port))
        eventually(lambda: len(scraped.value("up == 1", "instance")) == 7, what="all are scraped", seconds=60)
        send(mesh)
        yield scraped
    finally:
        mesh.close()


def send(mesh: MeshRun) -> None:
    def http(url: str, count: int, status: int) -> None:
        result = mesh.inside("client-v1", [sys.executable, str(APPS / "ask.py"), "http", url, str(count)], seconds=60)
        assert [code for code, _ in json.loads(result.stdout)] == [status] * count, result

    # The first ones make the series: what a counter begins with is no increase of it.
    for url, count, status in (
        ("http://echo:9080/", OK, 200),
        ("http://echo:9080/?status=503", FAILED, 503),
        ("http://echo:9080/private", DENIED, 403),
        ("http://slow:9080/?sleep=0.6", SLOW, 200),
    ):
        http(url, count, status)
    call = [sys.executable, str(APPS / "grpc_caller.py"), "calls:7070"]
    result = mesh.inside("client-v1", call, feed=b"%d\n" % GRPC)
    assert json.loads(result.stdout) == [f"v1 hello {number}" for number in range(GRPC)], result
    talk = [sys.executable, str(APPS / "talk.py"), "whole", "bytes", "9000", str(SIZE)]
    assert json.loads(mesh.inside("client-v1", talk).stdout) == f"{SIZE}"
    assert [mesh.get("/").status for _ in range(THROUGH)] == [200] * THROUGH


def test_every_workload_is_a_target(scraped: Scraped) -> None:
    everyone = {"control-plane", "echo-v1", "slow-v1", "client-v1", "calls-v1", "bytes-v1", "ingressgateway"}
    active = scraped.ask("targets")["activeTargets"]
    assert {target["labels"]["instance"] for target in active} == everyone

    def met() -> bool:
        found = scraped.ask("targets")["activeTargets"]
        assert not [(target["labels"]["instance"], target["lastError"]) for target in found if target["lastError"]]
        return True

    eventually(met, what="all are up")
    (echo,) = [target["labels"] for target in active if target["labels"]["instance"] == "echo-v1"]
    wanted = {"namespace": "default", "pod": "echo-v1", "app": "echo", "version": "v1", "job": "lateen"}
    assert wanted.items() <= echo.items()
    assert scraped.value("pilot_xds", "job")[("lateen-control-plane",)] > 0


EDGE = ("source_workload", "destination_service_name")
CODES = (*EDGE, "response_code")
HTTP = {
    ("client-v1", "echo", "200"): OK,
    ("client-v1", "echo", "503"): FAILED,
    ("client-v1", "echo", "403"): DENIED,
    ("client-v1", "slow", "200"): SLOW,
    ("ingressgateway", "echo", "200"): THROUGH,
}


CASES = [
    pytest.param("requests", CODES, HTTP, id="requests"),
    pytest.param("requests by server", CODES, HTTP, id="requests-by-server"),
    pytest.param(
        "success ratio",
        ("destination_service_name",),
        {("echo",): 1 - FAILED / (OK + FAILED + DENIED + THROUGH), ("slow",): 1.0},
        id="success-ratio",
    ),
    # All of them took between 500 and 1000 ms, which is one bucket: what is estimated lies evenly in it.
    pytest.param("p50", ("destination_service_name",), {("slow",): 750.0}, id="p50"),
    pytest.param("p90", ("destination_service_name",), {("slow",): 950.0}, id="p90"),
    pytest.param("p99", ("destination_service_name",), {("slow",): 995.0}, id="p99"),
    pytest.param("grpc", (*EDGE, "grpc_response_status"), {("client-v1", "calls", "0"): GRPC}, id="grpc"),
    pytest.param("grpc messages sent", EDGE, {("client-v1", "calls"): GRPC}, id="grpc-messages-sent"),
    pytest.param("grpc messages received", EDGE, {("client-v1", "calls"): GRPC}, id="grpc-messages-received"),
    pytest.param("tcp received", EDGE, {("client-v1", "bytes"): SIZE}, id="tcp-received"),
    pytest.param("tcp sent", EDGE, {("client-v1", "bytes"): len(f" {SIZE}\n")}, id="tcp-sent"),
    pytest.param("tcp connections", EDGE, {("client-v1", "bytes"): 1}, id="tcp-connections"),
    pytest.param(
        "denied",
        ("source_principal", "destination_service_name"),
        {(f"{ID}/client", "echo"): DENIED},
        id="denied",
    ),
    pytest.param("mutual tls", ("destination_service_name",), {("echo",): 1.0, ("slow",): 1.0}, id="mutual-tls"),
]


@pytest.mark.parametrize(("name", "labels", "wanted"), CASES)
def test_what_was_sent_is_returned(
    scraped: Scraped, name: str, labels: tuple[str, ...], wanted: dict[tuple[str, ...], float]
) -> None:
    def met() -> bool:
        found = scraped.value(queries()[name], *labels)
        assert {key: found.get(key) for key in wanted} == pytest.approx(wanted), found
        return True

    eventually(met, what=name)


def test_rates_by_source_and_destination(scraped: Scraped) -> None:
    """The series are there by now, so what comes now is an increase of each."""
    send(scraped.mesh)
    edges = {("client-v1", "echo"), ("client-v1", "slow"), ("client-v1", "calls"), ("ingressgateway", "echo")}

    def met() -> bool:
        rates = scraped.value(queries()["rate"], *EDGE)
        assert {edge for edge, rate in rates.items() if rate > 0} >= edges, rates
        ratios = scraped.value(queries()["success ratio of a minute"], "destination_service_name")
        assert ratios[("slow",)] == pytest.approx(1)
        assert ratios[("echo",)] == pytest.approx(1 - FAILED / (OK + FAILED + DENIED + THROUGH), abs=0.05)
        return True

    eventually(met, what="rates")


def test_every_query_of_the_page_is_tried() -> None:
    tried = {"rate", "success ratio of a minute"} | {case.values[0] for case in CASES}
    assert tried == set(queries())


def test_an_applications_own_metrics_come_with_its_proxys(scraped: Scraped) -> None:
    # All that the application has answered; what a policy denied never reached it.
    answered = scraped.value(
        'sum(istio_requests_total{reporter="destination",destination_service_name="echo",response_code!="403"})'
    )[()]
    assert answered >= OK + FAILED + THROUGH
    assert scraped.value("echo_requests_total", "instance", "app") == {("echo-v1", "echo"): answered}
    failures = 'istio_agent_scrape_failures_total{instance="echo-v1"}'
    assert set(scraped.value(failures, "type").items()) == {(("application",), 0.0), (("envoy",), 0.0)}


def test_how_there_would_be_logs_is_told_where_there_are_none(scraped: Scraped) -> None:
    result = scraped.mesh.run("logs", "echo-v1")
    assert (result.returncode, result.stdout) == (0, "")
    told, _, yaml = result.stderr.partition("\n\n")
    assert told.startswith("lateen logs: no proxy that was named writes an access log.")
    # What it says is true.
    scraped.mesh.write("logs.yaml", yaml)
    eventually(
        lambda: scraped.mesh.get("/").status == 200 and scraped.mesh.run("logs", "echo-v1").stdout, what="a line"
    )
