"""Where a client's requests go by its locality, and by the localities of the servers: YAML in, traffic out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from tests.fakes.proxies import ConfigServer
from tests.fakes.yard import Yard

pytestmark = pytest.mark.envoy

TO = ("10.9.0.1", 80)

# a is in the client's own zone, b in another zone of its region, c in another region.
SERVERS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: $name}
spec:
  hosts: [$name.test]
  addresses: [10.9.0.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 127.0.0.1, ports: {http: $a}, locality: eu/one/x, labels: {lane: red}}
  - {address: 127.0.0.1, ports: {http: $b}, locality: eu/two, labels: {lane: blue}}
  - {address: 127.0.0.1, ports: {http: $c}, locality: us/one, labels: {lane: blue}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec:
  host: $name.test
  trafficPolicy:
"""
OUTLIERS = """    outlierDetection:
      {consecutive5xxErrors: 1, interval: 0.05s, baseEjectionTime: 300s, maxEjectionPercent: 100}
"""
DISTRIBUTE = """    loadBalancer:
      simple: ROUND_ROBIN
      localityLbSetting:
        distribute:
        - from: eu/one/*
          to: {eu/one/*: 20, us/*: 80}
        - from: eu/two/*
          to: {eu/*: 100}
"""
FAILOVER = "    loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}, {from: asia, to: us}]}}\n"
OFF = "    loadBalancer: {localityLbSetting: {enabled: false}}\n"


@pytest.fixture(scope="module")
def yard(folder: Path, server: ConfigServer) -> Iterator[Yard]:
    with Yard(folder, server) as yard:
        yield yard


def policy(*blocks: str) -> str:
    return SERVERS + "".join(blocks)


@pytest.mark.parametrize(
    ("name", "blocks", "locality", "expected"),
    [
        pytest.param("nothing", ["    loadBalancer: {simple: ROUND_ROBIN}\n"], "eu/one/x", "abc", id="no outliers"),
        pytest.param("own", [OUTLIERS], "eu/one/x", "a", id="own subzone"),
        pytest.param("zone", [OUTLIERS], "eu/one/y", "a", id="own zone"),
        pytest.param("region", [OUTLIERS], "eu/three", "ab", id="own region"),
        pytest.param("world", [OUTLIERS], "asia/one", "abc", id="none near"),
        pytest.param("unknown", [OUTLIERS], "", "abc", id="client without locality"),
        pytest.param("switched", [OUTLIERS, OFF], "eu/one/x", "abc", id="switched off"),
        pytest.param("to-us", [OUTLIERS, FAILOVER], "asia/one", "c", id="region to fail over to"),
        pytest.param("two", [DISTRIBUTE], "eu/two/y", "ab", id="distribution of another zone"),
        pytest.param("not-from", [DISTRIBUTE], "us/one", "abc", id="distribution for others"),
    ],
)
def test_who_is_asked(yard: Yard, name: str, blocks: list[str], locality: str, expected: str) -> None:
    yard.use(policy(*blocks), locality=locality, name=name)
    assert set(yard.share(f"{name}.test", 30, to=TO)) == set(expected)


def test_distribution_by_weights(yard: Yard) -> None:
    yard.use(policy(DISTRIBUTE), locality="eu/one/x", name="weights")
    found = yard.share("weights.test", 200, to=TO)
    assert set(found) == {"a", "c"}
    assert 20 <= found["a"] <= 60


def test_the_next_nearest_takes_over_and_gives_back(yard: Yard) -> None:
    outliers = OUTLIERS.replace("300s", "0.5s")
    yard.use(policy(outliers), locality="eu/one/x", name="over")
    yard.apps["a"].statuses.append(500)
    assert yard.get("over.test", to=TO).status == 500
    yard.until(lambda: yard.share("over.test", 5, to=TO) == {"b": 5})
    yard.until(lambda: yard.share("over.test", 5, to=TO) == {"a": 5})


LABELS = """    loadBalancer:
      localityLbSetting:
        failoverPriority: [%s]
"""


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        pytest.param("lane", "lane", "bc", id="the client's own value"),
        pytest.param("red", "lane=red", "a", id="a constant"),
        pytest.param("both", "lane, topology.kubernetes.io/region", "b", id="in order"),
        pytest.param("topology", "topology.kubernetes.io/region, lane", "b", id="region first"),
        pytest.param("net", "topology.istio.io/network, topology.kubernetes.io/region", "ab", id="one network"),
        pytest.param("absent", "nobody-has-it", "abc", id="absent at both"),
    ],
)
def test_priority_by_labels(yard: Yard, name: str, labels: str, expected: str) -> None:
    yard.use(policy(OUTLIERS, LABELS % labels), locality="eu/one/x", labels={"lane": "blue"}, name=name)
    assert set(yard.share(f"{name}.test", 30, to=TO)) == set(expected)


MESH = """
---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {localityLbSetting: {%s}}
"""


@pytest.mark.parametrize(
    ("name", "blocks", "mesh", "expected"),
    [
        pytest.param("mesh-off", [OUTLIERS], "enabled: false", "abc", id="off"),
        pytest.param("mesh-on", [OUTLIERS], "enabled: true", "a", id="on"),
        pytest.param("mesh-split", [OUTLIERS], "distribute: [{from: eu/*, to: {us/*: 100}}]", "c", id="distributes"),
        pytest.param("rule-first", [OUTLIERS, LABELS % "lane=blue"], "enabled: false", "bc", id="the rule's own first"),
    ],
)
def test_the_meshs_setting(yard: Yard, name: str, blocks: list[str], mesh: str, expected: str) -> None:
    yard.use(policy(*blocks) + MESH % mesh, locality="eu/one/x", name=name)
    assert set(yard.share(f"{name}.test", 30, to=TO)) == set(expected)


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: $name}
spec:
  clusterIP: 10.9.0.1
  selector: {app: $name}
  ports: [{port: 80, name: http}]
  %s
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: a}
spec:
  {address: 127.0.0.1, ports: {http: $a}, locality: eu/one, labels: {app: $name, kubernetes.io/hostname: here}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: b}
spec:
  {address: 127.0.0.1, ports: {http: $b}, locality: eu/one, labels: {app: $name, kubernetes.io/hostname: there}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: c}
spec: {address: 127.0.0.1, ports: {http: $c}, locality: eu/two, labels: {app: $name}}
"""


@pytest.mark.parametrize(
    ("name", "field", "locality", "expected"),
    [
        pytest.param("alike", "", "eu/one", "abc", id="none"),
        pytest.param("close", "trafficDistribution: PreferClose", "eu/one", "ab", id="PreferClose"),
        pytest.param("zone", "trafficDistribution: PreferSameZone", "eu/two", "c", id="PreferSameZone"),
        pytest.param("far", "trafficDistribution: PreferSameZone", "us/one", "abc", id="nobody in the zone"),
        pytest.param("node", "trafficDistribution: PreferSameNode", "eu/one", "a", id="PreferSameNode"),
        pytest.param("strict", "internalTrafficPolicy: Local", "eu/two", "a", id="internalTrafficPolicy"),
        pytest.param("whole", "internalTrafficPolicy: Cluster", "eu/two", "abc", id="internalTrafficPolicy Cluster"),
    ],
)
def test_what_a_service_says(yard: Yard, name: str, field: str, locality: str, expected: str) -> None:
    yard.use(SERVICE % field, locality=locality, labels={"kubernetes.io/hostname": "here"}, name=name)
    assert set(yard.share(name, 30, to=TO)) == set(expected)


def test_a_service_whose_endpoints_are_all_elsewhere_has_none(yard: Yard) -> None:
    local = SERVICE % "internalTrafficPolicy: Local"
    yard.use(local, labels={"kubernetes.io/hostname": "nowhere"}, name="gone")
    assert yard.get("gone", to=TO).status == 503


def test_a_rule_is_before_what_the_service_says(yard: Yard) -> None:
    rule = """---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec:
  host: $name
  trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: eu/one, to: {eu/two: 100}}]}}}
"""
    yard.use(SERVICE % "trafficDistribution: PreferClose" + rule, locality="eu/one", name="ruled")
    assert set(yard.share("ruled", 10, to=TO)) == {"c"}


ZONES = "    loadBalancer: {zoneAwareLbSetting: {%s}}\n"


@pytest.mark.parametrize(
    ("name", "setting", "locality", "expected"),
    [
        pytest.param("zones", "enabled: true", "eu/one/x", "ab", id="own region"),
        pytest.param("zones-unsaid", "minClusterSize: 1", "us/two", "c", id="on by being there"),
        pytest.param("zones-next", "failover: [{from: asia, to: us}]", "asia/one", "c", id="region to fail over to"),
        pytest.param("zones-lane", "failoverPriority: [lane]", "eu/one/x", "b", id="labels before regions"),
        pytest.param("zones-none", "enabled: false", "eu/one/x", "abc", id="switched off"),
    ],
)
def test_regions_of_zone_aware_balancing(yard: Yard, name: str, setting: str, locality: str, expected: str) -> None:
    yard.use(policy(OUTLIERS, ZONES % setting), locality=locality, labels={"lane": "blue"}, name=name)
    assert set(yard.share(f"{name}.test", 30, to=TO)) == set(expected)


def test_regions_where_the_mesh_is_zone_aware(yard: Yard) -> None:
    mesh = MESH.replace("localityLbSetting: {%s}", "zoneAwareLbSetting: {enabled: true}")
    yard.use(policy(OUTLIERS) + mesh, locality="eu/one/x", name="mesh-zones")
    assert set(yard.share("mesh-zones.test", 30, to=TO)) == set("ab")


BALANCERS = (
    "simple: ROUND_ROBIN",
    "simple: LEAST_REQUEST",
    "simple: RANDOM",
    "simple: PASSTHROUGH",
    "consistentHash: {useSourceIp: true}",
    "consistentHash: {useSourceIp: true, maglev: {tableSize: 1009}}",
)
LOCALITIES = (
    "localityLbSetting: {distribute: [{from: '*', to: {'eu/*': 100}}]}",
    "localityLbSetting: {failover: [{from: eu, to: us}]}",
    "localityLbSetting: {failoverPriority: [lane]}",
    "zoneAwareLbSetting: {minClusterSize: 1}",
    "zoneAwareLbSetting: {enabled: false}",
)


@pytest.mark.parametrize(
    "resolution",
    [
        "STATIC, endpoints: [{address: 127.0.0.1, locality: eu/a}]",
        "NONE",
        "DNS, endpoints: [{address: localhost, locality: eu/a}, {address: 127.0.0.1, locality: us/a}]",
        "DNS_ROUND_ROBIN, endpoints: [{address: localhost, locality: eu/a}]",
    ],
    ids=["STATIC", "NONE", "DNS", "DNS_ROUND_ROBIN"],
)
def test_envoy_takes_every_balancing_with_every_locality_setting(yard: Yard, resolution: str) -> None:
    documents = []
    for number, (balancing, locality, warmup) in enumerate(
        product(BALANCERS, LOCALITIES, ("", ", warmup: {duration: 5s}")), start=1
    ):
        documents.append(
            f"""apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: h{number}}}
spec:
  hosts: [h{number}.test]
  addresses: [10.9.2.{number}]
  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 90, name: tcp, protocol: TCP}}]
  resolution: {resolution.replace(", endpoints", chr(10) + "  endpoints", 1)}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: h{number}}}
spec:
  host: h{number}.test
  trafficPolicy:
    loadBalancer: {{{balancing}, {locality}{warmup}}}
    outlierDetection: {{minHealthPercent: 20}}
    proxyProtocol: {{version: V2}}
    retryBudget: {{percent: 3}}
"""
        )
    yard.use("---\n".join(documents), locality="eu/a", labels={"lane": "x"})  # raises for what Envoy rejects
    assert f"outbound|80||h{len(documents)}.test" in yard.envoy.admin("/clusters?format=json")
