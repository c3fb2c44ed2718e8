"""HTTP of every kind, gRPC and WebSocket: real clients and servers through two sidecars and through the gateway."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.e2e.measuring import samples
from tests.e2e.servers import command

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

APPS = Path(__file__).parent / "apps"
CALL = str(APPS / "call.py")
CLIENT = "client-v1"
READER = "spiffe://cluster.local/ns/default/sa/reader"

# Name and number of each port, and what serves it. "web" and "any" name no protocol; the proxy for CONNECT is bytes.
PORTS = {
    "http:8080": "h1:8080",
    "http2:8082": "h2:8082",
    "http-ws:8083": "ws:8083",
    "grpc:7070": "grpc:7070",
    "grpc-web:7071": "grpc:7071",
    "web:8090": "h1:8090",
    "any:8091": "h2:8091",
    "tcp-proxy:3128": "connect:3128",
}

GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /ws}}]
    route: [{destination: {host: speak, port: {number: 8083}}}]
  - match: [{uri: {prefix: /speak.Speak/}}]
    route: [{destination: {host: speak, port: {number: 7070}}}]
  - route: [{destination: {host: speak, port: {number: 8080}}}]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("gateway.yaml", GATEWAY)
        run.up()
        run.workload("client", "v1", [sys.executable, str(ECHO)], words=["--service-account", "reader"])
        run.workload(
            "speak",
            "v1",
            [sys.executable, str(APPS / "speak.py"), *PORTS.values()],
            port="",
            words=[word for port in PORTS for word in ("--port", port)],
        )
        run.gateway()
        run.wait_ready(CLIENT, "speak-v1", "ingressgateway")
        eventually(lambda: curl(run, "http://speak:8080/")[0] == 200, what="the server answers")
        eventually(lambda: run.get("/").status == 200, what="the gateway answers")
        yield run
    finally:
        run.close()


@pytest.fixture(scope="module", autouse=True)
def slow(mesh: MeshRun) -> Iterator[tuple[subprocess.Popen[bytes], ...]]:
    """Requests that take longer than 15 s, one from a sidecar and one through the gateway."""
    told = [command("curl", "curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    commands = (
        [*mesh.enter(CLIENT), *told, "http://speak:8080/?sleep=17"],
        [*told, f"http://127.0.0.1:{mesh.port}/?sleep=17"],
    )
    processes = tuple(subprocess.Popen(argv, stdout=subprocess.PIPE) for argv in commands)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _own_rules_only(mesh: MeshRun) -> Iterator[None]:
    yield
    for path in mesh.config.glob("test-*.yaml"):
        path.unlink()


def curl(mesh: MeshRun, *words: str, of: str = CLIENT) -> tuple[int, str, Any]:
    """Run curl within a workload; return status, HTTP version and body (of JSON: what it says); 0 for no answer."""
    told = ["-w", "\n%{http_code} %{http_version}"]
    result = mesh.inside(of, [command("curl", "curl"), "-sS", "-m", "10", *told, *words], seconds=30)
    body, _, last = result.stdout.decode().rpartition("\n")
    status, version = last.split()
    return int(status), version, json.loads(body) if body.startswith("{") else body


def call(mesh: MeshRun, *words: str, feed: Any = None) -> Any:
    data = feed if isinstance(feed, bytes) or feed is None else json.dumps(feed).encode()
    result = mesh.inside(CLIENT, [sys.executable, CALL, *words], seconds=60, feed=data)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def grpc(mesh: MeshRun, *calls: dict[str, Any]) -> list[Any]:
    answers: list[Any] = call(mesh, "grpc", "speak:7070", feed=calls)
    return answers


def called_by_mutual_tls(headers: dict[str, str]) -> bool:
    return f"URI={READER}" in headers["x-forwarded-client-cert"]


# ---------------------------------------------------------------- HTTP


@pytest.mark.parametrize("port", [8080, 8090], ids=["named-http", "found-out"])
def test_http_1_1(mesh: MeshRun, port: int) -> None:
    status, version, body = curl(mesh, f"http://speak:{port}/")
    assert (status, version, body["version"]) == (200, "1.1", "HTTP/1.1")
    assert called_by_mutual_tls(body["headers"])


@pytest.mark.parametrize("port", [8080, 8090], ids=["named-http", "found-out"])
def test_http_1_0_is_answered(mesh: MeshRun, port: int) -> None:
    status, _, body = curl(mesh, "--http1.0", f"http://speak:{port}/chunks/70000")
    assert (status, len(body)) == (200, 70000)  # no chunks for a client that does not know them
    status, _, body = curl(mesh, "--http1.0", f"http://speak:{port}/")
    assert called_by_mutual_tls(body["headers"])
    found = mesh.workload_status("speak-v1")
    assert found is not None
    status, _, body = curl(mesh, "--http1.0", f"http://{found['ip']}:8080/", of="ingressgateway")
    assert status == 200, "nor does the server's own proxy refuse it"
    assert "x-forwarded-client-cert" not in body["headers"]


def test_the_gateway_asks_http_1_0_clients_to_upgrade(mesh: MeshRun) -> None:
    assert curl(mesh, "--http1.0", "http://127.0.0.1:80/", of="ingressgateway")[0] == 426


@pytest.mark.parametrize("port", [8082, 8091], ids=["named-http2", "found-out"])
def test_http_2_from_the_preface_on_with_trailers(mesh: MeshRun, port: int) -> None:
    answer = call(mesh, "h2", "speak", str(port), "300000")
    assert answer["trailers"] == {"x-total": "300000"}
    seen = json.loads(answer["headers"]["x-head"])
    assert seen["trailers"] == {"x-sent": "300000"}
    assert called_by_mutual_tls(seen)


def test_clients_and_servers_of_different_versions(mesh: MeshRun) -> None:
    status, version, body = curl(mesh, "--http2-prior-knowledge", "http://speak:8080/")
    assert (status, version, body["version"]) == (200, "2", "HTTP/1.1")
    # An offer to upgrade to HTTP/2 is declined, as a server may: the answer is HTTP/1.1, and to the application the
    # request goes in what its port speaks.
    for port in (8080, 8082):
        assert curl(mesh, "--http2", f"http://speak:{port}/")[:2] == (200, "1.1")


def test_large_bodies_both_ways(mesh: MeshRun, tmp_path: Path) -> None:
    size = 10_000_000
    for kind in ("size", "chunks"):
        _, _, body = curl(
            mesh, "-o", "/dev/null", "-w", "%{size_download}\n%{http_code} 1", f"http://speak:8080/{kind}/{size}"
        )
        assert body.strip() == str(size)
    file = tmp_path / "body"
    file.write_bytes(b"x" * size)
    tmp_path.chmod(0o755)
    for headers in ([], ["-H", "transfer-encoding: chunked"], ["-H", "expect: 100-continue"]):
        _, _, body = curl(mesh, "--data-binary", f"@{file}", *headers, "http://speak:8080/")
        assert body["got"] == size
    through = mesh.get(f"/size/{size}")
    assert len(through.body) == size


def test_connect_passes_on_a_port_of_bytes(mesh: MeshRun) -> None:
    status, _, body = curl(mesh, "--proxy", "http://speak:3128", "--proxytunnel", "http://speak:8080/")
    assert status == 200
    # The second hop is the proxy's own: a workload of the mesh as well, so that it arrives by mutual TLS.
    assert "URI=spiffe://cluster.local/ns/default/sa/default" in body["headers"]["x-forwarded-client-cert"]
    eventually(
        lambda: samples(mesh, "speak-v1", "istio_tcp_connections_opened_total", f'source_principal="{READER}"') >= 1,
        what="the tunnel is counted as TCP",
        seconds=15,
    )


# ---------------------------------------------------------------- WebSocket


def test_websocket_between_sidecars_and_through_the_gateway(mesh: MeshRun) -> None:
    wanted = {"repeated": [True, True, True], "status": 101}
    assert call(mesh, "ws", "ws://speak:8083/ws", "3000000") == wanted
    url = f"ws://127.0.0.1:{mesh.port}/ws"
    result = subprocess.run([sys.executable, CALL, "ws", url, "3000000"], capture_output=True, timeout=60, check=True)
    assert json.loads(result.stdout) == wanted
    for source in (CLIENT.removesuffix("-v1"), "ingressgateway"):
        eventually(
            lambda source=source: (
                samples(
                    mesh,
                    "speak-v1",
                    "istio_requests_total",
                    'response_code="101"',
                    f'source_app="{source}"',
                    'connection_security_policy="mutual_tls"',
                )
                == 1
            ),
            what=f"the connection from {source} is counted",
            seconds=15,
        )


# ---------------------------------------------------------------- gRPC


def test_grpc_calls_of_one_and_many_messages(mesh: MeshRun) -> None:
    answers = grpc(
        mesh,
        {"method": "Say", "say": ["ahoy"]},
        {"method": "Count", "say": ["2000"]},
        {"method": "Chat", "say": ["a", "b", "x" * 2_000_000]},
        {"method": "Say", "say": ["no"], "metadata": {"fail": "NOT_FOUND", "times": 9, "key": "missing"}},
    )
    assert answers[0] == "heard ahoy"
    assert answers[1] == [str(number) for number in range(2000)]
    assert [len(one) for one in answers[2]] == [7, 7, 2_000_006]
    assert answers[3] == "NOT_FOUND"

    def counted() -> bool:
        labels = ('request_protocol="grpc"', 'response_code="200"')
        for status in ("0", "5"):
            label = f'grpc_response_status="{status}"'
            assert samples(mesh, CLIENT, "istio_requests_total", *labels, label, 'reporter="source"') >= 1
            assert (
                samples(mesh, "speak-v1", "istio_requests_total", *labels, label, f'source_principal="{READER}"') >= 1
            )
        return True

    eventually(counted, what="calls by their gRPC status", seconds=15)


RETRIES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: speak}
spec:
  hosts: [speak]
  http:
  - match: [{headers: {retry: {exact: exhausted}}}]
    route: [{destination: {host: speak}}]
    retries: {attempts: 3, perTryTimeout: 5s, retryOn: "resource-exhausted,deadline-exceeded"}
  - match: [{headers: {retry: {exact: never}}}]
    route: [{destination: {host: speak}}]
    retries: {attempts: 0}
  - route: [{destination: {host: speak}}]
"""


def test_grpc_calls_are_repeated_by_their_status(mesh: MeshRun) -> None:
    def failing(status: str, times: int, **metadata: str) -> dict[str, Any]:
        key = f"{status}-{times}-{metadata}"
        return {"method": "Say", "say": ["x"], "metadata": {"fail": status, "times": times, "key": key, **metadata}}

    mesh.write("test-retries.yaml", RETRIES)
    probes = itertools.count()
    eventually(
        lambda: grpc(mesh, failing("RESOURCE_EXHAUSTED", 1, retry="exhausted", probe=str(next(probes)))) == ["heard x"],
        what="the rule holds",
    )
    cases = [
        # Without a word from anybody, what was not served is repeated, twice; an answer of the application is not.
        (failing("UNAVAILABLE", 2), "heard x", 3),
        (failing("UNAVAILABLE", 3), "UNAVAILABLE", 3),
        (failing("RESOURCE_EXHAUSTED", 1), "RESOURCE_EXHAUSTED", 1),
        (failing("INTERNAL", 1), "INTERNAL", 1),
        (failing("RESOURCE_EXHAUSTED", 3, retry="exhausted"), "heard x", 4),
        (failing("UNAVAILABLE", 1, retry="exhausted"), "UNAVAILABLE", 1),
        (failing("UNAVAILABLE", 1, retry="never"), "UNAVAILABLE", 1),
    ]
    asked = [spec for call_, _, _ in cases for spec in (call_, {"method": "Calls", "say": [call_["metadata"]["key"]]})]
    answers = grpc(mesh, *asked)
    found = [(answers[i], int(answers[i + 1])) for i in range(0, len(answers), 2)]
    assert found == [(answer, tries) for _, answer, tries in cases]


def test_grpc_web_becomes_grpc_at_the_servers_proxy(mesh: MeshRun) -> None:
    message = b"ahoy"
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    request = (
        b"POST /speak.Speak/Say HTTP/1.1\r\nhost: speak\r\nconnection: close\r\n"
        b"content-type: application/grpc-web+proto\r\ncontent-length: %d\r\n\r\n" % len(frame)
    )
    answer = call(mesh, "raw", "speak", "7071", feed=request + frame)
    assert answer.startswith("HTTP/1.1 200")
    assert "content-type: application/grpc-web+proto" in answer
    assert "heard ahoy" in answer
    assert "grpc-status:0" in answer.replace(" ", ""), "its trailers are in the body, where browsers can read them"


def test_grpc_through_the_gateway(mesh: MeshRun) -> None:
    calls = [{"method": "Say", "say": ["ahoy"]}, {"method": "Chat", "say": ["a", "b"]}]
    result = subprocess.run(
        [sys.executable, CALL, "grpc", f"127.0.0.1:{mesh.port}"],
        input=json.dumps(calls).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(result.stdout) == ["heard ahoy", ["heard a", "heard b"]]


def test_a_request_may_take_longer_than_envoys_own_default(slow: tuple[subprocess.Popen[bytes], ...]) -> None:
    """Last in this module: the requests have been under way since its start."""
    for process in slow:
        assert process.communicate(timeout=30)[0] == b"200"
