"""How a workload's proxy is started, by ProxyConfigs and the mesh's defaultConfig: what its agent is told."""

from __future__ import annotations

import pytest
from tests.pilot.serving.conftest import Bench, make_workload

from lateen.wire.local import ProxySettings

MESH = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  defaultConfig:
    concurrency: 2
    proxyMetadata: {A: mesh, B: mesh, C: mesh, LD_PRELOAD: /tmp/x.so}
    drainDuration: 9s
    terminationDrainDuration: 3s
    fileFlushInterval: 2s
    fileFlushMinSizeKb: 8
    serviceCluster: cart
    meshId: harbour
    runtimeValues: {envoy.x: "true"}
    proxyStatsMatcher: {inclusionPrefixes: [cluster.outbound], inclusionSuffixes: [x], inclusionRegexps: [".*y"]}
    connectionSettings: {globalDownstreamConnectionLimit: 100}
"""


def config(name: str, namespace: str, spec: str) -> str:
    return f"""
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


ROOT = config("root", "istio-system", "{concurrency: 3, environmentVariables: {B: root}}")
NAMESPACE = config("ns", "shop", "{environmentVariables: {C: ns, D: ns}}")
ONE = config("one", "shop", "{selector: {matchLabels: {app: web}}, concurrency: 0, environmentVariables: {D: one}}")


def told(bench: Bench, app: str, namespace: str = "shop") -> ProxySettings:
    return bench.pilot.proxy_for(
        make_workload(f"{app}-v1", "", "", "10.77.1.1", namespace=namespace, labels={"app": app})
    )


def test_every_field_that_acts_reaches_the_agent(bench: Bench) -> None:
    bench.apply(MESH)
    assert told(bench, "web") == ProxySettings(
        concurrency=2,
        # Variables that would change which program runs are no configuration.
        environment={"A": "mesh", "B": "mesh", "C": "mesh"},
        service_cluster="cart",
        mesh_id="harbour",
        drain_seconds=9.0,
        termination_drain_seconds=3.0,
        flush_seconds=2.0,
        flush_kilobytes=8,
        stats_prefixes=("cluster.outbound",),
        stats_suffixes=("x",),
        stats_regexes=(".*y",),
        runtime={"envoy.x": "true"},
        connection_limit=100,
    )


@pytest.mark.parametrize(
    ("texts", "threads", "environment"),
    [
        pytest.param([], None, {}, id="nothing"),
        pytest.param([MESH], 2, {"A": "mesh", "B": "mesh", "C": "mesh"}, id="mesh"),
        pytest.param([MESH, ROOT], 3, {"A": "mesh", "B": "root", "C": "mesh"}, id="root"),
        pytest.param([MESH, ROOT, NAMESPACE], 3, {"A": "mesh", "B": "root", "C": "ns", "D": "ns"}, id="namespace"),
        pytest.param([MESH, ROOT, NAMESPACE, ONE], 0, {"A": "mesh", "B": "root", "C": "ns", "D": "one"}, id="selector"),
        pytest.param([ONE.replace("web", "other")], None, {}, id="of-another"),
        pytest.param([NAMESPACE.replace("shop", "stock")], None, {}, id="of-another-namespace"),
        pytest.param([ONE.replace("shop", "istio-system")], None, {}, id="root-with-selector"),
        pytest.param(
            [NAMESPACE, config("older", "shop", "{environmentVariables: {E: e}}").replace("older", "aaa")],
            None,
            {"E": "e"},
            id="the-oldest-of-a-level",
        ),
    ],
)
def test_the_nearer_word_wins(bench: Bench, texts: list[str], threads: int | None, environment: dict[str, str]) -> None:
    bench.apply("---".join(texts))
    settings = told(bench, "web")
    assert (settings.concurrency, dict(settings.environment)) == (threads, environment)


def test_what_is_no_settable_variable_is_told(bench: Bench) -> None:
    bench.apply(config("bad", "shop", "{environmentVariables: {LD_PRELOAD: /x, PATH: /y, 'a b': c, GOOD: d}}"))
    assert told(bench, "web").environment == {"GOOD": "d"}
    fields = [problem.field for problem in bench.pilot.problems()]
    assert fields == [f"spec.environmentVariables[{name}]" for name in ("LD_PRELOAD", "PATH", "a b")]


def test_images_are_told(bench: Bench) -> None:
    bench.apply(config("image", "shop", "{image: {imageType: debug}}"))
    assert [problem.field for problem in bench.pilot.problems()] == ["spec.image.imageType"]


def test_of_several_for_the_same_workloads_the_younger_is_told(bench: Bench) -> None:
    bench.apply(NAMESPACE + config("zzz", "shop", "{concurrency: 1}"))
    (problem,) = bench.pilot.problems()
    assert problem.message == "is not in force: ProxyConfig shop/ns is older and for the same workloads"


def test_metrics_of_applications_are_merged_unless_the_mesh_says_not(bench: Bench) -> None:
    assert told(bench, "web").merge_metrics
    bench.apply(MESH.replace("spec:", "spec:\n  enablePrometheusMerge: false"))
    assert not told(bench, "web").merge_metrics
