"""Telemetry on the sample shop: what proxies count, log and trace, and who is told, by real collectors in the mesh."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.netns, pytest.mark.timeout(180)]

COLLECTOR = Path(__file__).parent / "apps" / "collector.py"
GRPC, HTTP = 4317, 9411

MESH = f"""
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
extensionProviders:
- name: lines
  envoyFileAccessLog: {{path: LINES, logFormat: {{text: '%REQ(:PATH)% %RESPONSE_CODE% %BYTES_SENT%'}}}}
- name: objects
  envoyFileAccessLog:
    path: OBJECTS
    omitEmptyValues: true
    logFormat:
      labels:
        code: '%RESPONSE_CODE%'
        path: '%REQ(:PATH)%'
        who: {{peer: '%DOWNSTREAM_PEER_URI_SAN%'}}
        none: '%REQ(X-NONE)%'
- name: requests
  envoyHttpAls:
    service: collector.default.svc.cluster.local
    port: {GRPC}
    additionalRequestHeadersToLog: [x-tenant]
- name: connections
  envoyTcpAls: {{service: default/collector.default.svc.cluster.local, port: {GRPC}}}
- name: records
  envoyOtelAls:
    service: collector.default.svc.cluster.local
    port: {GRPC}
    logFormat: {{text: 'code %RESPONSE_CODE%', labels: {{path: '%REQ(:PATH)%'}}}}
- name: zipkin
  zipkin:
    service: collector.default.svc.cluster.local
    port: {HTTP}
    traceContextOption: USE_B3_WITH_W3C_PROPAGATION
- name: otel
  opentelemetry:
    service: collector.default.svc.cluster.local
    port: {GRPC}
    grpc: {{timeout: 2s, initialMetadata: [{{name: x-tenant, value: shop}}]}}
- name: otel-http
  opentelemetry: {{service: collector.default.svc.cluster.local, port: {HTTP}, http: {{path: /v1/traces}}}}
- name: nowhere
  zipkin: {{service: nobody.default.svc.cluster.local, port: 1}}
"""


class Observed:
    """The shop with a collector, and what that was told."""

    def __init__(self, mesh: MeshRun) -> None:
        self.mesh = mesh
        self.told = mesh.root / "told.jsonl"
        self.lines = mesh.root / "lines.log"
        self.objects = mesh.root / "objects.log"
        mesh.config.joinpath("mesh.yaml").write_text(
            MESH.replace("LINES", str(self.lines)).replace("OBJECTS", str(self.objects))
        )
        self.start_collector()

    def start_collector(self) -> None:
        self.mesh.workload(
            "collector",
            "v1",
            [sys.executable, str(COLLECTOR)],
            port=f"grpc-reports:{GRPC}",
            words=["--port", f"http-spans:{HTTP}"],
            env={"OUT": str(self.told), "PORT": str(GRPC), "HTTP_PORT": str(HTTP)},
        )
        self.mesh.wait_ready("collector-v1")

    def telemetry(self, spec: str, *, namespace: str = "default", name: str = "shop") -> None:
        """Write one Telemetry in place of all others."""
        self.mesh.write(
            "telemetry.yaml",
            f"apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
            f"spec:\n{spec}",
        )

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        if not self.told.exists():
            return []
        whole = self.told.read_text().rpartition("\n")[0]
        said = [json.loads(line) for line in whole.splitlines()]
        return [entry for entry in said if entry["kind"] == kind]

    def forget(self) -> None:
        for path in (self.told, self.lines, self.objects):
            if path.exists():
                with path.open("w"):
                    continue

    def ask_until(self, check: Any, path: str = "/productpage", **headers: str) -> Any:
        """Ask for a page again and again until `check` returns something true; return that."""

        def asked() -> Any:
            self.mesh.get(path, headers)
            return check()

        return eventually(asked, what="what was wanted is seen")


@pytest.fixture(scope="module")
def shop() -> Iterator[Observed]:
    mesh = MeshRun()
    try:
        mesh.shop()
        yield Observed(mesh)
    finally:
        mesh.close()


@pytest.fixture(autouse=True)
def clean(shop: Observed) -> Iterator[None]:
    shop.forget()
    yield
    (shop.mesh.config / "telemetry.yaml").unlink(missing_ok=True)


def series(text: str, name: str, **labels: str) -> list[dict[str, str]]:
    """Return the labels of the series of `name` that have these."""
    found = []
    for line in text.splitlines():
        if line.startswith(f"{name}{{"):
            have = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line))
            if have.items() >= labels.items():
                found.append(have)
    return found


# ---------------------------------------------------------------- metrics


def test_labels_of_a_metric_are_added_changed_and_left_out(shop: Observed) -> None:
    shop.telemetry(
        """
  selector: {matchLabels: {app: reviews}}
  metrics:
  - overrides:
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      tagOverrides:
        verb: {value: request.method}
        caller: {value: "downstream_peer.labels['app'] == 'productpage' ? downstream_peer.workload : 'no'"}
        absent: {value: "request.headers['x-none']"}
        zone: {value: "node.id.size() > 3 ? 'a)%b' : ''"}
        source_app: {value: "'mine'"}
        response_flags: {operation: REMOVE}
        destination_version: {operation: REMOVE}
"""
    )
    wanted = {"verb": "GET", "caller": "productpage-v1", "absent": "unknown", "source_app": "mine"}

    def counted() -> list[dict[str, str]]:
        return series(shop.mesh.metrics("reviews-v1"), "istio_requests_total", reporter="destination", **wanted)

    for found in shop.ask_until(counted):
        assert found["zone"] == "a)%b"
        assert not {"response_flags", "destination_version"} & set(found)
        assert found["destination_app"] == "reviews"
    text = shop.mesh.metrics("reviews-v1")
    # Other metrics, the other side, and other workloads are as they were.
    assert not [found for found in series(text, "istio_request_bytes_count") if "verb" in found]
    assert not [found for found in series(text, "istio_requests_total", reporter="source") if "verb" in found]
    assert not [found for found in series(shop.mesh.metrics("details-v1"), "istio_requests_total") if "verb" in found]


def test_metrics_are_switched_off_one_by_one_and_as_a_whole(shop: Observed) -> None:
    def total(workload: str, name: str, reporter: str) -> float:
        lines = shop.mesh.metrics(workload).splitlines()
        mine = [line for line in lines if line.startswith(f"{name}{{") and f'reporter="{reporter}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in mine)

    def grows(workload: str, name: str, reporter: str) -> bool:
        before = total(workload, name, reporter)
        for _ in range(4):
            assert shop.mesh.get("/productpage").status == 200
        return total(workload, name, reporter) > before

    shop.telemetry(
        """
  metrics:
  - providers: [{name: Prometheus}]
    overrides:
    - {match: {metric: REQUEST_SIZE, mode: SERVER}, disabled: true}
    - {match: {customMetric: response_bytes}, disabled: true}
"""
    )
    eventually(lambda: not grows("productpage-v1", "istio_request_bytes_count", "destination"), what="sizes are off")
    assert not grows("productpage-v1", "istio_response_bytes_count", "destination")
    assert grows("productpage-v1", "istio_requests_total", "destination")
    # Envoy tells histograms anew every few seconds: what is told once must be more than what was told before.
    told = total("productpage-v1", "istio_request_bytes_count", "source")
    eventually(
        lambda: (
            shop.mesh.get("/productpage").status == 200
            and total("productpage-v1", "istio_request_bytes_count", "source") > told
        ),
        what="the other side is on",
    )
    shop.telemetry("  metrics: [{overrides: [{match: {mode: SERVER}, disabled: true}]}]\n")
    eventually(lambda: not grows("productpage-v1", "istio_requests_total", "destination"), what="a side is off")
    assert grows("productpage-v1", "istio_requests_total", "source")
    shop.telemetry("  metrics: [{providers: [{name: lines}]}]\n")
    eventually(lambda: not grows("productpage-v1", "istio_requests_total", "source"), what="all are off")


# ---------------------------------------------------------------- access logs


def test_lines_are_written_by_the_side_and_for_the_requests_that_are_named(shop: Observed) -> None:
    shop.telemetry(
        """
  selector: {matchLabels: {app: productpage}}
  accessLogging:
  - match: {mode: SERVER}
    providers: [{name: lines}, {name: OBJECTS}]
    filter: {expression: "response.code >= 400 && request.url_path != '/static/hidden'"}
"""
    )

    def logged() -> bool:
        return shop.lines.exists() and "/static/missing 404 " in shop.lines.read_text()

    shop.ask_until(logged, "/static/missing")
    shop.mesh.get("/static/hidden")
    assert shop.mesh.get("/productpage").status == 200
    shop.mesh.get("/static/last")
    eventually(lambda: "/static/last" in shop.lines.read_text(), what="the last line")
    assert all(re.fullmatch(r"/static/(missing|last) 404 \d+", line) for line in shop.lines.read_text().splitlines())
    objects = [json.loads(line) for line in shop.objects.read_text().splitlines()]
    assert {entry["code"] for entry in objects} == {404}
    assert all("none" not in entry for entry in objects)
    assert objects[0]["who"]["peer"].endswith("/sa/ingressgateway")  # the gateway's


def test_a_narrower_telemetry_switches_off_what_a_broader_one_asks_for(shop: Observed) -> None:
    shop.mesh.write(
        "telemetry.yaml",
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: all, namespace: istio-system}\n"
        "spec: {accessLogging: [{providers: [{name: lines}]}]}\n---\n"
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: details, namespace: default}\n"
        "spec: {selector: {matchLabels: {app: details}}, accessLogging: [{disabled: true}]}\n---\n"
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: productpage, namespace: default}\n"
        "spec:\n  selector: {matchLabels: {app: productpage}}\n"
        "  accessLogging: [{match: {mode: CLIENT}, disabled: true}]\n"
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\n"
        "metadata: {name: not-for-others, namespace: istio-system}\n"
        "spec: {selector: {matchLabels: {app: reviews}}, accessLogging: [{disabled: true}]}\n",
    )

    def counts() -> dict[str, int]:
        shop.mesh.get("/productpage")
        text = shop.lines.read_text() if shop.lines.exists() else ""
        return {
            part: len(re.findall(rf"^/{part}", text, re.MULTILINE)) for part in ("details", "reviews", "productpage")
        }

    eventually(lambda: counts()["reviews"] >= 3, what="reviews are logged")
    found = counts()
    assert found["details"] == 0  # neither by its own proxy, nor by its client's
    assert found["productpage"] >= 3  # by the gateway and by its own proxy


def test_collectors_are_told_of_requests_and_connections(shop: Observed) -> None:
    shop.telemetry(
        """
  accessLogging:
  - providers: [{name: requests}, {name: connections}, {name: records}]
    filter: {expression: "!request.path.startsWith('/envoy.')"}
"""
    )

    def attributes() -> list[dict[str, Any]]:
        records = [record["content"]["attributes"] for record in shop.kinds("otel-log")]
        return [{pair["key"]: pair["value"] for pair in record} for record in records]

    def requests() -> list[dict[str, Any]]:
        entries = [entry for entry in shop.kinds("als") if entry["log"] == "http_envoy_accesslog"]
        return [entry["content"]["request"] for entry in entries]

    # Proxies send in batches, each when it likes: the first records may be of another workload.
    page = "/productpage"
    shop.ask_until(
        lambda: (
            any(told.get("path") == {"string_value": page} for told in attributes())
            and any(request["path"] == page for request in requests())
        ),
        **{"x-tenant": "blue"},
    )
    tenants = {request.get("request_headers", {}).get("x-tenant") for request in requests()}
    assert "blue" in tenants
    assert any(record["content"]["body"]["string_value"] == "code 200" for record in shop.kinds("otel-log"))


# ---------------------------------------------------------------- traces


def roots_of(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {span["id"] for span in spans}
    return [span for span in spans if span.get("parentId") not in ids]


def test_a_request_is_one_trace_through_all_proxies(shop: Observed) -> None:
    shop.telemetry(
        """
  tracing:
  - providers: [{name: zipkin}]
    randomSamplingPercentage: 100
    customTags:
      stage: {literal: {value: canary}}
      tenant: {header: {name: x-tenant, defaultValue: none}}
      sni: {formatter: {value: "%REQUESTED_SERVER_NAME%"}}
      shell: {environment: {name: NO_SUCH_VARIABLE, defaultValue: nothing}}
"""
    )

    def whole() -> list[dict[str, Any]]:
        """Return a trace of which all has arrived: it begins at the gateway, and all else is below that.

        Proxies learn of the telemetry one after the other, and each sends its spans when it likes.
        """
        spans = [entry["content"] for entry in shop.kinds("zipkin")]
        for trace in {span["traceId"] for span in spans}:
            mine = [span for span in spans if span["traceId"] == trace]
            names = {(span["name"].partition(".")[0], span["kind"]) for span in mine}
            roots = roots_of(mine)
            if (
                {("reviews", "CLIENT"), ("reviews", "SERVER"), ("productpage", "SERVER")} <= names
                and len(roots) == 1
                and roots[0]["localEndpoint"]["serviceName"].startswith("ingressgateway")
            ):
                return mine
        return []

    spans = shop.ask_until(whole, **{"x-tenant": "blue"})
    assert len(spans[0]["traceId"]) == 32
    by_id = {span["id"]: span for span in spans}
    served = next(span for span in spans if span["name"].startswith("reviews.") and span["kind"] == "SERVER")
    assert by_id[served["parentId"]]["kind"] == "CLIENT"
    tags = served["tags"]
    assert (tags["stage"], tags["shell"]) == ("canary", "nothing")
    assert tags["istio.canonical_service"] == "reviews"
    assert tags["istio.namespace"] == "default"
    assert tags["http.status_code"] == "200"
    assert "reviews" in tags["sni"]
    (root,) = roots_of(spans)
    assert root["tags"]["tenant"] == "blue"


def test_both_kinds_of_trace_headers_reach_applications(shop: Observed) -> None:
    shop.telemetry("  tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]\n")
    shop.ask_until(lambda: shop.kinds("zipkin"))
    given = "4bf92f3577b34da6a3ce929d0e0e4736"
    shop.ask_until(
        lambda: [entry for entry in shop.kinds("zipkin") if entry["content"]["traceId"] == given],
        traceparent=f"00-{given}-00f067aa0ba902b7-01",
    )
    b3 = "463ac35c9f6413ad48485a3953bb6124"
    headers = {"x-b3-traceid": b3, "x-b3-spanid": "a2fb4a1d1a96d312", "x-b3-sampled": "1"}
    shop.ask_until(lambda: [entry for entry in shop.kinds("zipkin") if entry["content"]["traceId"] == b3], **headers)


@pytest.mark.parametrize(("provider", "kind"), [("otel", "otel-span"), ("otel-http", "otel-http-span")])
def test_opentelemetry(shop: Observed, provider: str, kind: str) -> None:
    shop.telemetry(f"  tracing: [{{providers: [{{name: {provider}}}], randomSamplingPercentage: 100}}]\n")

    def services() -> set[str]:
        found = set()
        for entry in shop.kinds(kind):
            pairs = {pair["key"]: pair["value"] for pair in entry["resource"]["attributes"]}
            found.add(pairs["service.name"]["string_value"])
        return found

    shop.ask_until(lambda: services() >= {"productpage.default", "details.default", "ingressgateway.default"})
    if provider == "otel":
        assert {entry["metadata"] for entry in shop.kinds(kind)} == {"shop"}


def test_nothing_is_traced_that_is_not_sampled_or_not_wanted(shop: Observed) -> None:
    shop.telemetry(
        """
  tracing:
  - providers: [{name: zipkin}]
    randomSamplingPercentage: 100
  - match: {mode: SERVER}
    disableSpanReporting: true
"""
    )

    def clients_only() -> bool:
        """Tell it of a while: spans of what was in force before come late."""
        shop.forget()
        shop.ask_until(lambda: len(shop.kinds("zipkin")) > 15)
        told = [entry["content"] for entry in shop.kinds("zipkin")]
        # A gateway counts as a client; what it serves is a span of its own.
        sidecars = [span for span in told if not span["localEndpoint"]["serviceName"].startswith("ingressgateway")]
        return {span["kind"] for span in sidecars} == {"CLIENT"}

    eventually(clients_only, what="spans of clients alone")
    shop.telemetry("  tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 0}]\n")

    def quiet() -> bool:
        shop.forget()
        for _ in range(10):
            assert shop.mesh.get("/productpage").status == 200
        return not shop.kinds("zipkin")

    eventually(quiet, what="no request is sampled")
    # Who asks to be traced, is: as in Istio, a client's decision stands before the mesh's.
    shop.ask_until(lambda: shop.kinds("zipkin"), traceparent="00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01")


# ---------------------------------------------------------------- faults


def test_what_has_no_effect_is_told_and_changes_nothing_else(shop: Observed) -> None:
    shop.telemetry(
        """
  metrics:
  - overrides:
    - match: {metric: REQUEST_COUNT}
      tagOverrides: {bad: {value: 'request.method =='}, good: {value: request.method}}
    - {match: {customMetric: nobodys}, disabled: true}
  accessLogging: [{providers: [{name: unheard-of}, {name: lines}]}]
  tracing: [{providers: [{name: nowhere}]}]
"""
    )
    shop.ask_until(lambda: series(shop.mesh.metrics("details-v1"), "istio_requests_total", good="GET"))
    shop.ask_until(lambda: shop.lines.exists() and shop.lines.read_text())
    told = " ".join(entry["message"] for entry in shop.mesh.status()["warnings"])
    for words in ("'unheard-of'", "no service nobody.", "no CEL expression", "'nobodys'"):
        assert words in told, told


def test_a_collector_that_is_gone_costs_no_request(shop: Observed) -> None:
    shop.telemetry(
        "  tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]\n"
        "  accessLogging: [{providers: [{name: requests}, {name: records}]}]\n"
    )
    shop.ask_until(lambda: shop.kinds("zipkin") and shop.kinds("als"))
    shop.mesh.stop("collector-v1")
    try:
        with shop.mesh.load() as load:
            eventually(lambda: load.sent > 60, what="60 requests")
        assert load.bad == []
    finally:
        shop.start_collector()
    shop.forget()
    shop.ask_until(lambda: shop.kinds("als"))
