"""Services of every shape, called through two sidecars: ports, protocols, names, entries, weights, policy."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.e2e.measuring import samples

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

APPS = Path(__file__).parent / "apps"
MANY = str(APPS / "many.py")
CLIENT = "client-v1"  # in namespace "other"
FULL = "many.default.svc.cluster.local"

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: many}
spec:
  selector: {app: many}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http-second, port: 8081}
  - {name: tcp-x, port: 9090}
  - {name: web, port: 8091}
  - {name: lines, port: 9092}
---
apiVersion: v1
kind: Service
metadata: {name: many-headless}
spec:
  clusterIP: None
  selector: {app: many}
  ports:
  - {name: http, port: 8080}
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("services.yaml", SERVICES)
        run.up()
        for version in ("v1", "v2"):
            run.workload(
                "many",
                version,
                [sys.executable, MANY, "http:8080", "http:8081", "tcp:9090", "http:8091", "tcp:9092"],
                port="",
                env={"SERVICE_VERSION": version},
                words=[
                    *("--service-account", "many"),
                    *("--port", "http:8080", "--port", "http-second:8081", "--port", "tcp-x:9090"),
                    *("--port", "web:8091", "--port", "lines:9092"),
                ],
            )
        run.workload("client", "v1", [sys.executable, str(ECHO)], words=["--namespace", "other"])
        run.gateway()
        run.wait_ready("many-v1", "many-v2", CLIENT, "ingressgateway")
        eventually(lambda: {a[0] for a in get(run, "http://many.default/", 2)} == {200}, what="many answers")
        yield run
    finally:
        run.close()


@pytest.fixture(autouse=True)
def _own_rules_only(mesh: MeshRun) -> Iterator[None]:
    yield
    for path in mesh.config.glob("test-*.yaml"):
        path.unlink()


@pytest.fixture(scope="module")
def outsider(mesh: MeshRun) -> Iterator[str]:
    """A server without sidecar, in the network of the gateway (which captures nothing); its address."""
    server = mesh.start_inside("ingressgateway", [sys.executable, MANY, "http:8999", "http:8081"])
    assert server.stdout is not None
    assert server.stdout.readline() == b"serving\n"
    try:
        yield str(info(mesh, "ingressgateway")["ip"])
    finally:
        server.terminate()
        server.communicate(timeout=10)


def info(mesh: MeshRun, name: str) -> dict[str, Any]:
    found = mesh.workload_status(name)
    assert found is not None
    return found


def ask(mesh: MeshRun, workload: str, *words: str) -> Any:
    result = mesh.inside(workload, [sys.executable, str(APPS / "ask.py"), *words], seconds=40)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def get(mesh: MeshRun, url: str, count: int = 1, *, of: str = CLIENT) -> list[Any]:
    """Ask `url` from within a workload: [[status, body], ...]."""
    answers: list[Any] = ask(mesh, of, "http", url, str(count))
    return answers


# ---------------------------------------------------------------- ports and protocols


def test_each_port_of_a_service_leads_to_its_own_target(mesh: MeshRun) -> None:
    for port, target in ((80, 8080), (8081, 8081)):
        answers = get(mesh, f"http://many.default:{port}/", 12)
        assert {status for status, _ in answers} == {200}
        assert {body["port"] for _, body in answers} == {target}
        assert {body["version"] for _, body in answers} == {"v1", "v2"}
        for _, body in answers:
            xfcc = body["headers"]["x-forwarded-client-cert"]
            assert "URI=spiffe://cluster.local/ns/other/sa/default" in xfcc
            assert "By=spiffe://cluster.local/ns/default/sa/many" in xfcc


def test_tcp_goes_through_two_sidecars_and_is_measured_at_both_ends(mesh: MeshRun) -> None:
    text = "x" * 1000
    for _ in range(8):
        answer = ask(mesh, CLIENT, "tcp", "many.default", "9090", text)
        assert answer.split() in (["v1", text], ["v2", text])

    at_server = (
        'reporter="destination"',
        'connection_security_policy="mutual_tls"',
        # Of a TCP client, its certificate is all that stock Envoy knows: no workload, only namespace and principal.
        'source_workload_namespace="other"',
        'source_principal="spiffe://cluster.local/ns/other/sa/default"',
        f'destination_service="{FULL}"',
        'request_protocol="tcp"',
    )
    at_client = (
        'reporter="source"',
        'source_workload="client-v1"',
        'destination_principal="spiffe://cluster.local/ns/default/sa/many"',
        f'destination_service="{FULL}"',
        'request_protocol="tcp"',
    )

    def measured() -> bool:
        for family, wanted in (
            ("istio_tcp_connections_opened_total", 8),
            ("istio_tcp_connections_closed_total", 8),
            ("istio_tcp_received_bytes_total", 8 * 1001),
            ("istio_tcp_sent_bytes_total", 8 * 1004),
        ):
            servers = sum(samples(mesh, name, family, *at_server) for name in ("many-v1", "many-v2"))
            assert servers == wanted, f"{family} at the servers"
            assert samples(mesh, CLIENT, family, *at_client) == wanted, f"{family} at the client"
        return True

    eventually(measured, what="TCP metrics", seconds=15)


def test_a_port_that_names_no_protocol_is_found_out(mesh: MeshRun) -> None:
    (answer,) = get(mesh, "http://many.default:8091/")
    assert answer[0] == 200
    # Only a proxy that read a request as such adds to its headers.
    assert {"x-request-id", "x-forwarded-client-cert"} <= set(answer[1]["headers"])
    opened = samples(mesh, CLIENT, "istio_tcp_connections_opened_total", 'reporter="source"')
    assert ask(mesh, CLIENT, "tcp", "many.default", "9092", "hello there").split(" ", 1)[1] == "hello there\n"
    eventually(
        lambda: samples(mesh, CLIENT, "istio_tcp_connections_opened_total", 'reporter="source"') == opened + 1,
        what="the connection is counted as TCP",
        seconds=15,
    )


def test_a_headless_service_is_reached_by_name(mesh: MeshRun) -> None:
    name = "many-headless.default"
    members = sorted(info(mesh, f"many-{version}")["ip"] for version in ("v1", "v2"))
    assert ask(mesh, CLIENT, "names", name)[name] == members
    ((status, body),) = get(mesh, f"http://{name}:8080/")
    assert status == 200
    assert "URI=spiffe://cluster.local/ns/other/sa/default" in body["headers"]["x-forwarded-client-cert"]


# ---------------------------------------------------------------- names


def test_names_from_another_namespace(mesh: MeshRun) -> None:
    names = ["many.default", "many.default.svc", FULL, "many", "nowhere.default", "client"]
    found = ask(mesh, CLIENT, "names", *names)
    assert len(found[FULL]) == 1
    assert found["many.default"] == found["many.default.svc"] == found[FULL]
    assert found["many"] == []  # a short name is of one's own namespace
    assert found["nowhere.default"] == []
    assert len(found["client"]) == 1
    assert ask(mesh, "many-v1", "names", "many")["many"] == found[FULL]


# ---------------------------------------------------------------- the outside


def test_a_service_entry_with_static_addresses(mesh: MeshRun, outsider: str) -> None:
    mesh.write(
        "test-entry.yaml",
        f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: plain}}
spec:
  hosts: [plain.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8999}}]
  endpoints: [{{address: {outsider}}}]
""",
    )
    eventually(lambda: get(mesh, "http://plain.example.com/")[0][0] == 200, what="the entry is reached")
    assert ask(mesh, CLIENT, "names", "plain.example.com")["plain.example.com"][0].startswith("240.240.")
    ((_, body),) = get(mesh, "http://plain.example.com/")
    assert body["port"] == 8999
    assert body["headers"]["host"] == "plain.example.com"
    eventually(
        lambda: samples(mesh, CLIENT, "istio_requests_total", 'destination_service="plain.example.com"') >= 2,
        what="requests to it are measured",
        seconds=15,
    )


def test_a_service_entry_with_a_name_that_dns_knows(mesh: MeshRun) -> None:
    mesh.write(
        "test-entry.yaml",
        """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [named.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints: [{address: many-headless.default.svc.cluster.local}]
""",
    )
    eventually(lambda: get(mesh, "http://named.example.com/")[0][0] == 200, what="the entry is reached")
    ((_, body),) = get(mesh, "http://named.example.com/")
    assert body["headers"]["host"] == "named.example.com"
    assert body["version"] in ("v1", "v2")
    assert "x-forwarded-client-cert" not in body["headers"]  # it is not of the mesh, so there is no mutual TLS


def test_unknown_destinations_pass_unless_only_the_registry_counts(mesh: MeshRun, outsider: str) -> None:
    unknown_port, http_port = f"http://{outsider}:8999/", f"http://{outsider}:8081/"
    assert get(mesh, unknown_port)[0][0] == 200
    assert get(mesh, http_port)[0][0] == 200
    mesh.write(
        "test-mesh.yaml",
        "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
        "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n",
    )
    eventually(lambda: get(mesh, unknown_port)[0][0] == 0, what="a port that no service has is refused")
    eventually(lambda: get(mesh, http_port)[0][0] == 502, what="an unknown host on a known port is refused")
    assert get(mesh, "http://many.default/")[0][0] == 200
    (mesh.config / "test-mesh.yaml").unlink()
    eventually(lambda: get(mesh, unknown_port)[0][0] == 200, what="passes again")


# ---------------------------------------------------------------- rules


def test_weights_are_kept(mesh: MeshRun) -> None:
    mesh.write(
        "test-weights.yaml",
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: many}
spec:
  host: many
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: many}
spec:
  hosts: [many]
  http:
  - match: [{uri: {prefix: /ready}}]
    route: [{destination: {host: many, subset: v2}, headers: {request: {set: {x-ruled: "yes"}}}}]
  - route:
    - {destination: {host: many, subset: v1}, weight: 90}
    - {destination: {host: many, subset: v2}, weight: 10}
""",
    )
    eventually(lambda: "x-ruled" in get(mesh, "http://many.default/ready")[0][1]["headers"], what="the rule holds")
    answers = get(mesh, "http://many.default/", 500)
    assert {status for status, _ in answers} == {200}
    shares = Counter(body["version"] for _, body in answers)
    assert 17 <= shares["v2"] <= 83, shares  # 50 expected; five standard deviations to either side


def test_strict_refuses_plain_text_and_permissive_takes_it(mesh: MeshRun) -> None:
    url = f"http://{info(mesh, 'many-v1')['ip']}:8080/"

    def plain() -> Any:
        return get(mesh, url, of="ingressgateway")[0]

    status, body = plain()
    assert status == 200
    assert "x-forwarded-client-cert" not in body["headers"]
    mesh.write(
        "test-strict.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\n"
        "spec: {mtls: {mode: STRICT}}\n",
    )
    eventually(lambda: plain()[0] == 0, what="plain text is refused")
    assert {status for status, _ in get(mesh, "http://many.default/", 6)} == {200}
    assert ask(mesh, CLIENT, "tcp", "many.default", "9090", "still").endswith("still\n")
    (mesh.config / "test-strict.yaml").unlink()
    eventually(lambda: plain()[0] == 200, what="plain text is taken again")
