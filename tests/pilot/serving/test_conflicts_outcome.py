"""Services that claim one address and port: the oldest has it, the others are told, and nobody else is disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.proxies import ConfigServer
from tests.fakes.yard import Yard

pytestmark = pytest.mark.envoy

OTHER = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other}
spec:
  hosts: [other.test]
  addresses: [10.9.0.2]
  resolution: STATIC
  ports: [{number: 9000, name: tcp, protocol: TCP}, {number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {tcp: $z, http: $a}}]
---
"""


@pytest.fixture(scope="module")
def yard(folder: Path, server: ConfigServer) -> Iterator[Yard]:
    with Yard(folder, server) as yard:
        yield yard


def service(name: str, port: str, day: int, *, address: str = "10.9.0.1", extra: str = "") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, creationTimestamp: "2026-01-{day:02}T00:00:00Z"}}
spec:
  clusterIP: {address}
  selector: {{app: {name}}}
  ports: [{{port: 9000, name: tcp}}]
  {extra}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}}}
spec: {{address: 127.0.0.1, ports: {{tcp: {port}}}, labels: {{app: {name}}}}}
---
"""


def entry(name: str, day: int, *, port: str = "TCP", more: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, creationTimestamp: "2026-01-{day:02}T00:00:00Z"}}
spec:
  hosts: [{name}.test]
  resolution: NONE
  ports: [{{number: 9001, name: p, protocol: {port}}}]
  {more}
---
"""


def warnings(yard: Yard) -> list[tuple[str, str]]:
    return [
        (str(problem.resource.name), problem.field)
        for problem in yard.pilot.problems()
        if problem.resource is not None and "is older" in problem.message
    ]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_services_of_one_address(yard: Yard, first: str, second: str) -> None:
    yard.use(OTHER + service(second, "$y", 2) + service(first, "$x", 1))
    assert yard.says(("10.9.0.1", 9000)) == b"x:hello"
    assert warnings(yard) == [(second, "spec.ports[0].port")]
    assert yard.says(("10.9.0.2", 9000)) == b"z:hello"
    assert yard.share("other.test", 3, to=("10.9.0.2", 80)) == {"a": 3}


def test_external_ips_are_a_services_own(yard: Yard) -> None:
    yard.use(service("a", "$x", 1, extra="externalIPs: [192.0.2.1, 192.0.2.2]"))
    assert [yard.says((address, 9000)) for address in ("10.9.0.1", "192.0.2.1", "192.0.2.2")] == [b"x:hello"] * 3
    assert yard.pilot.problems() == []


def test_an_external_ip_is_contested_like_any_address(yard: Yard) -> None:
    yard.use(service("a", "$x", 2, address="10.9.0.1") + service("b", "$y", 1, extra="externalIPs: [10.9.0.1]"))
    assert yard.says(("10.9.0.1", 9000)) == b"y:hello"
    assert warnings(yard) == [("a", "spec.ports[0].port")]


def test_services_without_an_address(yard: Yard) -> None:
    other = service("c", "$z", 9, address="10.9.0.3")
    yard.use(OTHER + entry("young", 2) + entry("old", 1) + entry("by-name", 3, port="TLS") + other)
    assert warnings(yard) == [("young", "spec.ports[0].number")]
    dialled = ("127.0.0.1", 9001)
    assert yard.says(dialled) == b""  # to the older one, where nobody listens
    assert yard.stat("cluster.outbound|9001||old.test;.upstream_cx_total") > 0
    assert yard.stat("cluster.outbound|9001||young.test;.upstream_cx_total") == 0
    assert yard.says(("10.9.0.3", 9000)) == b"z:hello"


def test_what_different_namespaces_see_is_no_conflict(yard: Yard) -> None:
    apart = entry("one", 1, more='exportTo: ["."]') + entry("two", 2, more="exportTo: [elsewhere]")
    yard.use(apart)
    assert warnings(yard) == []


PLAIN = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain}
spec: {mtls: {mode: DISABLE}}
---
"""
HEADLESS = """
apiVersion: v1
kind: Service
metadata: {name: %s, creationTimestamp: "2026-01-0%dT00:00:00Z"}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{port: $x, name: tcp}]
---
"""


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("d", "c")])
def test_headless_services_of_the_same_workloads(yard: Yard, first: str, second: str) -> None:
    member = yard.workload("db-1", ip="127.0.0.1", labels={"app": "db"})
    yard.use(OTHER + PLAIN + HEADLESS % (second, 2) + HEADLESS % (first, 1), workloads=[member])
    port = yard.tcp["x"].port
    assert yard.says(("127.0.0.1", port)) == b"x:hello"
    assert yard.stat(f"cluster.outbound|{port}||{first}.default.svc.cluster.local;.upstream_cx_total") == 1
    assert yard.stat(f"cluster.outbound|{port}||{second}.default.svc.cluster.local;.upstream_cx_total") == 0
    assert warnings(yard) == [(second, "spec.ports[0].port")]
    assert yard.says(("10.9.0.2", 9000)) == b"z:hello"


def test_a_conflict_ends_with_the_older_one(yard: Yard) -> None:
    yard.use(service("a", "$x", 1) + service("b", "$y", 2))
    assert warnings(yard) == [("b", "spec.ports[0].port")]
    yard.use(service("b", "$y", 2))
    assert warnings(yard) == []
    assert yard.says(("10.9.0.1", 9000)) == b"y:hello"
