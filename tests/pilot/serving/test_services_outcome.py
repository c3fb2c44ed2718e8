"""What the fields of a Service do to traffic: YAML in, answers out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.proxies import ConfigServer
from tests.fakes.yard import Yard

from lateen.pilot.registry.values import Workload

pytestmark = pytest.mark.envoy

TO = ("10.9.0.1", 80)
TCP_TO = ("10.9.0.1", 9000)

# The applications behind are fakes without a sidecar of their own.
PLAIN = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain}
spec: {mtls: {mode: DISABLE}}
---
"""


@pytest.fixture(scope="module")
def yard(folder: Path, server: ConfigServer) -> Iterator[Yard]:
    with Yard(folder, server, http="ab", tcp="x") as yard:
        yield yard


def runs(yard: Yard, app: str, *, ready: bool = True, **labels: str) -> Workload:
    """A workload that listens where application `app` does, on HTTP and on `raw` TCP."""
    http, tcp = yard.apps[app].port, yard.tcp["x"].port
    return yard.workload(
        f"w-{app}",
        ip="127.0.0.1",
        labels={"app": "it", **labels},
        ports=(("web", http, http), ("raw", tcp, tcp)),
        ready=ready,
    )


def use(yard: Yard, name: str, spec: str, *workloads: Workload, more: str = "") -> list[Any]:
    service = f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    yard.use(PLAIN + service + more, workloads=workloads)
    return [problem.field for problem in yard.pilot.problems()]


def test_ports_by_number_and_by_name(yard: Yard) -> None:
    ports = "ports: [{port: 80, name: http, targetPort: $a}, {port: 9000, name: tcp, targetPort: raw}]"
    assert use(yard, "numbers", f"clusterIP: 10.9.0.1, selector: {{app: it}}, {ports}", runs(yard, "a")) == []
    assert yard.share("numbers", 3, to=TO) == {"a": 3}
    assert yard.says(TCP_TO) == b"x:hello"


def test_the_selector_picks(yard: Yard) -> None:
    spec = "clusterIP: 10.9.0.1, selector: {app: it, lane: red}, ports: [{port: 80, name: http, targetPort: web}]"
    use(yard, "red", spec, runs(yard, "a", lane="red"), runs(yard, "b", lane="blue"))
    assert yard.share("red", 6, to=TO) == {"a": 6}


@pytest.mark.parametrize(
    ("name", "port", "http"),
    [
        pytest.param("by-name", "name: http-web", True, id="name"),
        pytest.param("by-word", "name: web, appProtocol: http", True, id="appProtocol"),
        pytest.param("over-name", "name: http, appProtocol: tcp", False, id="appProtocol over name"),
    ],
)
def test_the_protocol_of_a_port(yard: Yard, name: str, port: str, http: bool) -> None:
    use(
        yard,
        name,
        f"clusterIP: 10.9.0.1, selector: {{app: it}}, ports: [{{port: 80, {port}, targetPort: web}}]",
        runs(yard, "a"),
    )
    answer = yard.get(name, to=TO)
    # Only a proxy that takes it for HTTP counts its attempts.
    assert ("x-envoy-attempt-count" in answer.json["headers"]) == http


def test_udp_is_carried_by_no_proxy(yard: Yard) -> None:
    ports = "ports: [{port: 80, name: http, targetPort: web}, {port: 53, name: dns, protocol: UDP}]"
    use(yard, "udp", f"clusterIP: 10.9.0.1, selector: {{app: it}}, {ports}", runs(yard, "a"))
    assert yard.get("udp", to=TO).status == 200
    assert "|53||" not in yard.envoy.admin("/clusters")


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        pytest.param("one-ip", "clusterIP: 10.9.0.1", id="clusterIP"),
        pytest.param("ips", "clusterIPs: [10.9.0.1]", id="clusterIPs"),
        pytest.param("all-ips", "clusterIP: 10.9.0.1, clusterIPs: [10.9.0.1], ipFamilies: [IPv4]", id="both"),
        pytest.param("node-port", "clusterIP: 10.9.0.1, type: ClusterIP", id="type"),
    ],
)
def test_addresses(yard: Yard, name: str, spec: str) -> None:
    found = use(
        yard,
        name,
        f"{spec}, selector: {{app: it}}, ports: [{{port: 9000, name: tcp, targetPort: raw}}]",
        runs(yard, "a"),
    )
    assert found == []
    assert yard.says(TCP_TO) == b"x:hello"
    assert [entry.addresses for entry in yard.proxy.shared.entries() if entry.name == name] == [("10.9.0.1",)]


def test_ipv6_is_told(yard: Yard) -> None:
    spec = "clusterIPs: [10.9.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack"
    found = use(
        yard,
        "dual",
        f"{spec}, selector: {{app: it}}, ports: [{{port: 80, name: http, targetPort: web}}]",
        runs(yard, "a"),
    )
    assert found == ["spec.clusterIPs", "spec.ipFamilies", "spec.ipFamilyPolicy"]
    assert yard.get("dual", to=TO).status == 200


def test_headless(yard: Yard) -> None:
    port = yard.apps["a"].port
    for name, spec in (("headless", "clusterIP: None"), ("headless-list", "clusterIPs: [None]")):
        use(yard, name, f"{spec}, selector: {{app: it}}, ports: [{{port: $a, name: http}}]", runs(yard, "a"))
        assert yard.share(name, 3, to=("127.0.0.1", port)) == {"a": 3}
        assert [entry.addresses for entry in yard.proxy.shared.entries() if entry.name == name] == [("127.0.0.1",)]


def test_another_name(yard: Yard) -> None:
    alias = """---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: real.default.svc.cluster.local}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: to-alias}
spec: {hosts: [outer.test], http: [{route: [{destination: {host: alias}}]}]}
"""
    spec = "clusterIP: 10.9.0.1, selector: {app: it}, ports: [{port: 80, name: http, targetPort: web}]"
    use(yard, "real", spec, runs(yard, "a"), more=alias)
    assert [entry.addresses for entry in yard.proxy.shared.entries() if entry.name == "alias"] == [("10.9.0.1",)]
    assert yard.share("outer.test", 3, to=TO) == {"a": 3}


@pytest.mark.parametrize(("name", "field", "expected"), [("ready", "false", "b"), ("unready", "true", "ab")])
def test_workloads_that_are_not_ready(yard: Yard, name: str, field: str, expected: str) -> None:
    ports = "ports: [{port: 80, name: http, targetPort: web}]"
    spec = f"clusterIP: 10.9.0.1, publishNotReadyAddresses: {field}, selector: {{app: it}}, {ports}"
    use(yard, name, spec, runs(yard, "a", ready=False), runs(yard, "b"))
    assert set(yard.share(name, 20, to=TO)) == set(expected)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        pytest.param("type: NodePort", ["spec.type"], id="NodePort"),
        pytest.param(
            "type: LoadBalancer, loadBalancerClass: a, loadBalancerIP: 192.0.2.1, "
            "loadBalancerSourceRanges: [10.0.0.0/8], "
            "allocateLoadBalancerNodePorts: true, healthCheckNodePort: 30000, externalTrafficPolicy: Local",
            [
                "spec.type",
                "spec.externalTrafficPolicy",
                "spec.loadBalancerClass",
                "spec.loadBalancerIP",
                "spec.loadBalancerSourceRanges",
                "spec.allocateLoadBalancerNodePorts",
                "spec.healthCheckNodePort",
            ],
            id="LoadBalancer",
        ),
        pytest.param("topologyKeys: ['*']", ["spec.topologyKeys"], id="topologyKeys"),
        pytest.param(
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}",
            ["spec.sessionAffinityConfig"],
            id="sessionAffinityConfig",
        ),
    ],
)
def test_what_a_machine_has_none_of_is_told_and_harms_nothing(yard: Yard, spec: str, told: list[str]) -> None:
    ports = "ports: [{port: 80, name: http, targetPort: web}]"
    assert use(yard, "told", f"clusterIP: 10.9.0.1, {spec}, selector: {{app: it}}, {ports}", runs(yard, "a")) == told
    assert yard.share("told", 3, to=TO) == {"a": 3}


def test_ports_of_nodes_are_told(yard: Yard) -> None:
    ports = "ports: [{port: 80, name: http, targetPort: web, nodePort: 30080}]"
    assert use(yard, "nodes", f"clusterIP: 10.9.0.1, selector: {{app: it}}, {ports}", runs(yard, "a")) == [
        "spec.ports[0].nodePort"
    ]
    assert yard.share("nodes", 3, to=TO) == {"a": 3}
