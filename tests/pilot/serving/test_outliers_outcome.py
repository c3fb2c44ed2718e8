"""Endpoints that fail are ejected and come back: outlier detection, from YAML to traffic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.proxies import ConfigServer, dead_port
from tests.fakes.yard import Yard

pytestmark = pytest.mark.envoy

TO = ("10.9.0.1", 80)
TCP_TO = ("10.9.0.1", 9000)
NEVER = "interval: 0.05s, baseEjectionTime: 300s"  # an ejected one does not come back within a test
OWN_STATUSES = f"consecutive5xxErrors: 2, outlierDetectionHttpErrorCodes: [429, 409], {NEVER}"
SPLIT = "splitExternalLocalOriginErrors: true"

SERVERS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: $name}
spec:
  hosts: [$name.test]
  addresses: [10.9.0.1]
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 9000, name: tcp, protocol: TCP}
  endpoints:
  - {address: 127.0.0.1, ports: {http: $first, tcp: $tcp}}
  - {address: 127.0.0.1, ports: {http: $b, tcp: $y}}
  - {address: 127.0.0.1, ports: {http: $c, tcp: $z}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec:
  host: $name.test
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {%s}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec:
  hosts: [$name.test]
  http:
  - {retries: {attempts: 0}, route: [{destination: {host: $name.test}}]}
"""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def yard(folder: Path, server: ConfigServer) -> Iterator[Yard]:
    with Yard(folder, server) as yard:
        yield yard


@pytest.fixture
def name() -> str:
    return f"host-{next(_numbers)}"


def use(yard: Yard, name: str, detection: str, *, more: str = "", first: int = 0, tcp: int = 0) -> None:
    a, x = yard.apps["a"].port, yard.tcp["x"].port
    yard.use(SERVERS % detection + more, name=name, first=first or a, tcp=tcp or x)


def ejected(yard: Yard, name: str, port: int = 80) -> int:
    return yard.stat(f"cluster.outbound|{port}||{name}.test;.outlier_detection.ejections_active")


def fail(yard: Yard, name: str, status: int, times: int, apps: str = "a") -> None:
    """Let applications answer with a status so many times in a row each."""
    for app in apps:
        yard.apps[app].statuses += [status] * times
    while any(yard.apps[app].statuses for app in apps):
        yard.get(f"{name}.test", to=TO)


def test_errors_in_a_row_eject_and_time_brings_back(yard: Yard, name: str) -> None:
    use(yard, name, "consecutive5xxErrors: 3, interval: 0.05s, baseEjectionTime: 0.5s, maxEjectionPercent: 100")
    fail(yard, name, 500, 2)
    assert ejected(yard, name) == 0
    assert yard.share(f"{name}.test", 3, to=TO) == {"a": 1, "b": 1, "c": 1}  # a success starts the count again
    fail(yard, name, 500, 3)
    yard.until(lambda: ejected(yard, name) == 1)
    assert "a" not in yard.share(f"{name}.test", 6, to=TO)
    yard.until(lambda: ejected(yard, name) == 0)
    yard.until(lambda: yard.share(f"{name}.test", 6, to=TO)["a"] == 2)


@pytest.mark.parametrize(
    ("detection", "status", "times", "out"),
    [
        pytest.param(f"consecutive5xxErrors: 0, {NEVER}", 500, 8, 0, id="5xx switched off"),
        pytest.param(NEVER, 500, 4, 0, id="four of the default five"),
        pytest.param(NEVER, 500, 5, 1, id="the default five"),
        pytest.param(f"consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, {NEVER}", 502, 2, 1, id="gateway error"),
        pytest.param(
            f"consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, {NEVER}", 500, 6, 0, id="no gateway error"
        ),
        pytest.param(f"consecutive5xxErrors: 0, consecutiveGatewayErrors: 0, {NEVER}", 503, 8, 0, id="gateway off"),
        pytest.param(OWN_STATUSES, 429, 2, 1, id="own statuses"),
        pytest.param(OWN_STATUSES, 500, 6, 0, id="none of them"),
    ],
)
def test_what_counts(yard: Yard, name: str, detection: str, status: int, times: int, out: int) -> None:
    use(yard, name, detection + ", maxEjectionPercent: 100")
    fail(yard, name, status, times)
    if out:
        yard.until(lambda: ejected(yard, name) == out)
    else:
        assert yard.share(f"{name}.test", 6, to=TO) == {"a": 2, "b": 2, "c": 2}
        assert ejected(yard, name) == 0


@pytest.mark.parametrize(
    ("percent", "out"),
    [pytest.param(100, 3, id="all"), pytest.param(70, 2, id="two"), pytest.param(0, 0, id="unset, so a tenth")],
)
def test_how_many_at_once(yard: Yard, name: str, percent: int, out: int) -> None:
    use(yard, name, f"consecutive5xxErrors: 1, {NEVER}, maxEjectionPercent: {percent}")
    for app in "abc":
        yard.apps[app].statuses += [500] * 20
    try:
        yard.until(lambda: yard.get(f"{name}.test", to=TO).status == 503 or ejected(yard, name) >= out)
        yard.share(f"{name}.test", 12, to=TO)
    finally:
        for app in "abc":
            yard.apps[app].statuses.clear()
    assert ejected(yard, name) == out


@pytest.mark.parametrize(
    ("healthy", "status"), [pytest.param(0, 503, id="no panic"), pytest.param(50, 200, id="panic below half")]
)
def test_with_too_few_left(yard: Yard, name: str, healthy: int, status: int) -> None:
    use(yard, name, f"consecutive5xxErrors: 1, {NEVER}, maxEjectionPercent: 100, minHealthPercent: {healthy}")
    for app in "abc":
        yard.apps[app].statuses.append(500)
    yard.until(lambda: yard.get(f"{name}.test", to=TO).status != 200 and ejected(yard, name) == 3)
    panics = f"cluster.outbound|80||{name}.test;.lb_healthy_panic"
    yard.until(lambda: yard.get(f"{name}.test", to=TO).status == status and (yard.stat(panics) > 0) == (status == 200))


@pytest.mark.parametrize(
    ("detection", "out"),
    [
        pytest.param(f"{SPLIT}, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 0", 1, id="apart"),
        pytest.param("consecutive5xxErrors: 2", 1, id="together they are 5xx"),
        pytest.param(f"{SPLIT}, consecutive5xxErrors: 2", 0, id="apart they are not"),
    ],
)
def test_failures_to_connect(yard: Yard, name: str, detection: str, out: int) -> None:
    with dead_port() as dead:
        use(yard, name, f"{detection}, {NEVER}, maxEjectionPercent: 100", first=dead)
        statuses = yard.share(f"{name}.test", 9, to=TO)
        assert statuses["503"] in ((2, 3) if out else (3,))
        if out:
            yard.until(lambda: ejected(yard, name) == 1)
            assert yard.share(f"{name}.test", 6, to=TO) == {"b": 3, "c": 3}
        else:
            assert ejected(yard, name) == 0


def test_connections_of_tcp_eject_too(yard: Yard, name: str) -> None:
    with dead_port() as dead:
        use(yard, name, f"consecutive5xxErrors: 2, {NEVER}, maxEjectionPercent: 100", tcp=dead)
        yard.until(lambda: yard.says(TCP_TO) == b"" or ejected(yard, name, 9000) == 1)
        yard.until(lambda: (yard.says(TCP_TO), ejected(yard, name, 9000))[1] == 1)
        assert b"" not in [yard.says(TCP_TO) for _ in range(6)]


def test_the_meshs_default(yard: Yard, name: str) -> None:
    mesh = f"""---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{defaultTrafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 1, {NEVER}, maxEjectionPercent: 100}}}}}}
"""
    text = SERVERS.replace("    outlierDetection: {%s}\n", "") + mesh
    yard.use(text, name=name, first=yard.apps["a"].port, tcp=yard.tcp["x"].port)
    fail(yard, name, 500, 1)
    yard.until(lambda: ejected(yard, name) == 1)


def test_an_ejected_endpoint_stays_out_when_its_service_changes(yard: Yard, name: str) -> None:
    use(yard, name, f"consecutive5xxErrors: 1, {NEVER}, maxEjectionPercent: 100")
    fail(yard, name, 500, 1)
    yard.until(lambda: ejected(yard, name) == 1)
    entry = """---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: another}
spec: {hosts: [another.test], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: []}
"""
    use(yard, name, f"consecutive5xxErrors: 1, {NEVER}, maxEjectionPercent: 100", more=entry)
    assert yard.share(f"{name}.test", 6, to=TO) == {"b": 3, "c": 3}
