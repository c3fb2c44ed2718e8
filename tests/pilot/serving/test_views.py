"""Who shares a view: proxies are told apart by their locality and labels only where something depends on those."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.pilot.serving.conftest import Bench

from lateen.pilot.registry.values import Workload

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: it, namespace: %s}
spec: {host: reviews.default.svc.cluster.local, exportTo: %s, trafficPolicy: {%s}}
"""
EVERYWHERE, AT_HOME = "['*']", "['.']"
OUTLIERS = "outlierDetection: {consecutive5xxErrors: 3}"
PRIORITY = f"{OUTLIERS}, loadBalancer: {{localityLbSetting: {{failoverPriority: [lane]}}}}"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {selector: {app: near}, ports: [{name: http, port: 80}], trafficDistribution: PreferClose}
"""
MESH = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}
"""


@pytest.fixture
def spread(bench: Bench, make: Callable[..., Workload]) -> Bench:
    """Four clients: two in one zone that differ in a label, one in another, one of another namespace there."""
    bench.run(
        make("one", "", "", "10.77.0.1", locality="eu/one", labels={"lane": "red"}),
        make("same", "", "", "10.77.0.2", locality="eu/one", labels={"lane": "blue"}),
        make("two", "", "", "10.77.0.3", locality="eu/two", labels={"lane": "red"}),
        make("away", "", "", "10.77.0.4", locality="eu/two", labels={"lane": "red"}, namespace="away"),
    )
    return bench


def groups(bench: Bench) -> list[str]:
    """Return which clients share a view, by the first letters of their names."""
    views: dict[object, str] = {}
    for name, namespace in (("one", "default"), ("same", "default"), ("two", "default"), ("away", "away")):
        proxy = bench.connect(name, namespace)
        views[proxy.view] = views.get(proxy.view, "") + name[0]
        proxy.close()
    return sorted(views.values())


def test_one_view_a_namespace_where_nobody_asks(spread: Bench) -> None:
    spread.apply(RULE % ("default", EVERYWHERE, "loadBalancer: {simple: RANDOM}"))
    assert groups(spread) == ["a", "ost"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(RULE % ("default", EVERYWHERE, OUTLIERS), ["a", "os", "t"], id="a rule with outlier detection"),
        pytest.param(RULE % ("away", AT_HOME, OUTLIERS), ["a", "ost"], id="of clients elsewhere"),
        pytest.param(RULE % ("default", EVERYWHERE, PRIORITY), ["a", "o", "s", "t"], id="by a label, too"),
        pytest.param(SERVICE, ["a", "os", "t"], id="a service with a distribution"),
        pytest.param(MESH, ["a", "os", "t"], id="the mesh"),
    ],
)
def test_a_view_for_each_locality_where_somebody_asks(spread: Bench, config: str, expected: list[str]) -> None:
    spread.apply(config)
    assert groups(spread) == expected


def test_proxies_move_apart_and_together_again(spread: Bench) -> None:
    one, two = spread.connect("one"), spread.connect("two")
    assert one.view == two.view
    spread.apply(RULE % ("default", EVERYWHERE, OUTLIERS))
    assert (one.view.locality, two.view.locality) == ("eu/one", "eu/two")
    spread.delete("DestinationRule", "it")
    assert one.view == two.view
