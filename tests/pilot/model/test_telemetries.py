"""Which Telemetries are for a proxy, and what they come to: Istio's levels and merges."""

from __future__ import annotations

from typing import Any

import pytest

from lateen.api.base import ResourceKey
from lateen.api.decode import decode_documents
from lateen.flow import Graph
from lateen.pilot.model.attachment import GATEWAY_NAME_LABEL
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.telemetries import CLIENT, SERVER, Side, Telemetries
from lateen.pilot.model.values_telemetry import AccessLog, Collector, FileLog, Metrics, Telemetry, Zipkin
from lateen.pilot.registry.values import Workload

WEB = Workload(name="web", namespace="shop", service_account="web", ip="10.77.0.9", labels={"app": "web"})
MESH = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
accessLogFile: /older
defaultConfig: {tracing: {sampling: 7, customTags: {from: {literal: {value: mesh}}}}}
extensionProviders:
- {name: lines, envoyFileAccessLog: {path: /lines, logFormat: {text: x}}}
- {name: json, envoyFileAccessLog: {path: /json, logFormat: {labels: {}}}}
- {name: zip, zipkin: {service: tracer.shop.svc.cluster.local, port: 9411, maxTagLength: 99}}
- {name: lost, zipkin: {service: nobody.shop.svc.cluster.local, port: 9411}}
- {name: private, zipkin: {service: bank/tracer.shop.svc.cluster.local, port: 9411}}
"""
SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: tracer, namespace: shop}
spec: {selector: {app: tracer}, ports: [{name: http, port: 9411}]}
"""


class Watched:
    """A mesh with Telemetries, and what one workload of namespace `shop` reports."""

    def __init__(self, mesh: str = MESH) -> None:
        self.graph = Graph()
        self.mesh = Mesh(self.graph)
        self.telemetries = Telemetries(self.mesh)
        self.age = 0
        self.decode(mesh + SERVICE)
        with self.graph.batch():
            self.mesh.workloads.set(WEB.name, WEB)

    def decode(self, text: str) -> None:
        decoded = decode_documents(text.encode(), "test.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        with self.graph.batch():
            for obj in decoded.objects:
                self.mesh.objects.set(obj.key, obj)

    def write(self, name: str, spec: str, *, namespace: str = "shop") -> Watched:
        """Write one Telemetry, younger than all before it."""
        self.age += 1
        self.decode(
            f"apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata:\n  name: {name}\n"
            f'  namespace: {namespace}\n  creationTimestamp: "2026-01-01T00:00:{self.age:02d}Z"\n'
            f"spec: {spec}\n"
        )
        return self

    def view(self, workload: Workload = WEB) -> View:
        with self.graph.batch():
            self.mesh.workloads.set(workload.name, workload)
        view: View | None = self.mesh.view.peek(workload.name)
        assert view is not None
        return view

    def names(self, workload: Workload = WEB) -> list[str]:
        view = self.view(workload)
        keys: tuple[ResourceKey, ...] = self._read(lambda read: self.telemetries.levels(read, view))
        return [f"{key.namespace}/{key.name}" for key in keys]

    def of(self, side: Side = SERVER) -> Telemetry:
        view = self.view()
        found: Telemetry = self._read(lambda read: self.telemetries.of(read, view, side))
        return found

    def _read(self, ask: Any) -> Any:
        self.age += 100
        return self.graph.derive(f"asked {self.age}", lambda read, key: ask(read)).peek("it")


@pytest.fixture
def shop() -> Watched:
    return Watched()


GATEWAY = Workload(
    name="edge",
    namespace="shop",
    service_account="edge",
    ip="10.77.0.8",
    kind="gateway",
    labels={GATEWAY_NAME_LABEL: "front", "app": "edge"},
)
TARGET = "{group: gateway.networking.k8s.io, kind: Gateway, name: front}"


@pytest.mark.parametrize(
    ("spec", "namespace", "web", "edge"),
    [
        pytest.param("{}", "shop", True, True, id="namespace"),
        pytest.param("{}", "istio-system", True, True, id="mesh"),
        pytest.param("{}", "bank", False, False, id="another namespace"),
        pytest.param("{selector: {matchLabels: {app: web}}}", "shop", True, False, id="selector"),
        pytest.param("{selector: {matchLabels: {app: edge}}}", "shop", False, True, id="selector of a gateway"),
        pytest.param("{selector: {matchLabels: {app: web}}}", "istio-system", False, False, id="selector in the root"),
        pytest.param("{selector: {matchLabels: {}}}", "shop", True, True, id="selector that asks for nothing"),
        pytest.param(f"{{targetRefs: [{TARGET}]}}", "shop", False, True, id="targets"),
        pytest.param(f"{{targetRef: {TARGET}}}", "shop", False, True, id="one target"),
        pytest.param("{targetRef: {kind: Service, group: '', name: web}}", "shop", False, False, id="no gateway"),
    ],
)
def test_for_whom_a_telemetry_is(shop: Watched, spec: str, namespace: str, web: bool, edge: bool) -> None:
    shop.write("it", spec, namespace=namespace)
    wanted = [f"{namespace}/it"]
    assert shop.names() == (wanted if web else [])
    assert shop.names(GATEWAY) == (wanted if edge else [])


def test_levels_go_from_the_broadest_to_the_narrowest(shop: Watched) -> None:
    choosy = "{selector: {matchLabels: {app: web}}}"
    shop.write("first", choosy).write("narrow", "{}").write("second", choosy).write("younger", "{}")
    shop.write("broad", "{}", namespace="istio-system").write("ignored", "{}", namespace="istio-system")
    assert shop.names() == ["istio-system/broad", "shop/narrow", "shop/first", "shop/second"]


def test_without_telemetries_metrics_are_standard_and_the_older_settings_act(shop: Watched) -> None:
    found = shop.of()
    assert found.metrics == Metrics()
    assert found.access_logs == (AccessLog(sink=FileLog(path="/older")),)
    assert found.tracing is None


def metrics(*entries: str) -> str:
    return f"{{metrics: [{', '.join(entries)}]}}"


def override(match: str, more: str) -> str:
    return f"{{overrides: [{{match: {match}, {more}}}]}}"


def test_metrics_of_several_telemetries_add_up(shop: Watched) -> None:
    off, on = "disabled: true", "disabled: false"
    shop.write("all", metrics(override("{metric: REQUEST_SIZE}", off)), namespace="istio-system")
    shop.write("shop", metrics(override("{metric: REQUEST_COUNT, mode: SERVER}", "tagOverrides: {a: {value: x}}")))
    assert shop.of().metrics == Metrics(off=("request_bytes",), labels=(("requests_total", (("a", "x"),)),))
    assert shop.of(CLIENT).metrics == Metrics(off=("request_bytes",))
    choosy = "selector: {matchLabels: {app: web}}"
    shop.write("web", f"{{{choosy}, metrics: [{override('{metric: REQUEST_SIZE, mode: SERVER}', on)}]}}")
    shop.write(
        "more",
        f"{{{choosy}, metrics: [{override('{metric: REQUEST_COUNT}', 'tagOverrides: {b: {operation: REMOVE}}')}]}}",
    )
    assert shop.of().metrics == Metrics(labels=(("requests_total", (("a", "x"), ("b", None))),))
    shop.write("none", f"{{{choosy}, metrics: [{override('{mode: SERVER}', off)}]}}")
    assert shop.of().metrics is None
    assert shop.of(CLIENT).metrics is not None
    # Whatever is said after that brings all of them back, with all that was said before.
    shop.write("back", f"{{{choosy}, metrics: [{override('{metric: RESPONSE_SIZE}', off)}]}}")
    assert shop.of().metrics == Metrics(
        off=("response_bytes",), labels=(("requests_total", (("a", "x"), ("b", None))),)
    )


@pytest.mark.parametrize(
    ("mesh", "spec", "counted"),
    [
        pytest.param(MESH, "{metrics: [{providers: [{name: PROMETHEUS}]}]}", True, id="in any case"),
        pytest.param(MESH, "{metrics: [{providers: [{name: lines}]}]}", False, id="another type"),
        pytest.param(MESH, "{metrics: [{providers: [{name: nobody}]}]}", False, id="unknown"),
        pytest.param(MESH + "defaultProviders: {metrics: [lines]}\n", "{}", False, id="default of another type"),
        pytest.param(MESH + "defaultProviders: {metrics: []}\n", "{}", False, id="no default"),
        pytest.param(
            MESH + "defaultProviders: {metrics: []}\n",
            "{metrics: [{providers: [{name: prometheus}]}, {overrides: []}]}",
            True,
            id="named",
        ),
    ],
)
def test_who_counts(mesh: str, spec: str, counted: bool) -> None:
    assert (Watched(mesh).write("it", spec).of().metrics is not None) is counted


LINES, JSON = AccessLog(sink=FileLog(path="/lines", format="x")), AccessLog(sink=FileLog(path="/json", json=True))
OLDER = AccessLog(sink=FileLog(path="/older"))


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        pytest.param("[{providers: [{name: LINES}]}]", (LINES,), id="one"),
        pytest.param("[{providers: [{name: lines}, {name: json}]}]", (JSON, LINES), id="two"),
        pytest.param("[{providers: [{name: lines}]}, {disabled: true}]", (), id="of the entry before"),
        pytest.param(
            "[{providers: [{name: lines}, {name: json}]}, {providers: [{name: json}], disabled: true}]",
            (LINES,),
            id="one off",
        ),
        pytest.param("[{providers: [{name: lines}]}, {disabled: true}, {disabled: false}]", (LINES,), id="on again"),
        pytest.param("[{match: {mode: CLIENT}, providers: [{name: lines}]}]", (OLDER,), id="of the other side"),
        pytest.param("[{disabled: true}]", (), id="nothing at all"),
        pytest.param("[{providers: [{name: nobody}]}]", (), id="unknown"),
        pytest.param(
            "[{providers: [{name: lines}], filter: {expression: 'true'}}]",
            (AccessLog(sink=LINES.sink, when="true"),),
            id="filter",
        ),
        pytest.param(
            "[{providers: [{name: lines}]}, {filter: {expression: 'true'}}]", (LINES,), id="filter for nobody"
        ),
        pytest.param("[{filter: {expression: 'true'}}]", (OLDER,), id="no provider at all"),
    ],
)
def test_which_access_logs_are_written(shop: Watched, entries: str, wanted: tuple[AccessLog, ...]) -> None:
    assert shop.write("it", f"{{accessLogging: {entries}}}").of().access_logs == wanted


def test_default_providers_of_access_logs_and_the_built_in_one() -> None:
    shop = Watched(MESH + "accessLogEncoding: JSON\ndefaultProviders: {accessLogging: [envoy]}\n")
    assert shop.of().access_logs == (AccessLog(sink=FileLog(path="/dev/stdout", json=True)),)
    assert shop.write("it", "{accessLogging: [{disabled: true}]}").of().access_logs == ()


def test_who_is_told_of_spans(shop: Watched) -> None:
    shop.write("all", "{tracing: [{providers: [{name: zip}]}]}", namespace="istio-system")
    cluster = "outbound|9411||tracer.shop.svc.cluster.local"
    found = shop.of().tracing
    assert found is not None
    assert found.tracer == Zipkin(collector=Collector(cluster=cluster, authority="tracer.shop.svc.cluster.local"))
    assert (found.percent, found.max_path_length) == (7, 99)
    assert [(tag.name, tag.source) for tag in found.tags] == [("from", "mesh")]
    # A narrower one changes fields, one by one.
    shop.write("shop", "{tracing: [{randomSamplingPercentage: 50, customTags: {x: {literal: {value: y}}}}]}")
    found = shop.of().tracing
    assert found is not None
    assert (found.percent, [tag.name for tag in found.tags]) == (50, ["x"])
    for provider in ("lost", "private", "lines", "nobody"):
        assert shop.write("shop", f"{{tracing: [{{providers: [{{name: {provider}}}]}}]}}").of().tracing is None


def test_tracing_without_a_telemetry_is_the_meshs() -> None:
    own = MESH.replace("sampling: 7", "sampling: 7, zipkin: {address: 'tracer.shop.svc.cluster.local:9411'}")
    assert Watched(own).of().tracing is not None
    assert Watched(own + "enableTracing: false\n").of().tracing is None
    assert Watched(own.replace("tracer.shop.svc.cluster.local:9411", "elsewhere:1")).of().tracing is None
    named = Watched(MESH + "defaultProviders: {tracing: [zip]}\n")
    assert named.of().tracing is not None
    # A Telemetry that speaks of tracing, without anybody to tell, switches it off.
    assert Watched(own).write("it", "{tracing: [{enableIstioTags: true}]}").of().tracing is None


def test_a_telemetry_of_a_namespace_makes_no_other_view(shop: Watched) -> None:
    before = shop.view()
    shop.write("it", "{accessLogging: [{disabled: true}]}")
    assert shop.view() == before
    shop.write("choosy", "{selector: {matchLabels: {app: web}}, accessLogging: [{disabled: true}]}")
    assert shop.view().telemetry == (ResourceKey("Telemetry", "shop", "choosy"),)
