"""Workloads of a WorkloadGroup, of another network, and a server behind a Unix socket: what no traffic case can say."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import MeshRun, eventually
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

APPS = Path(__file__).parent / "apps"
CLIENT = "client-v1"

CONFIG = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vms}
spec:
  metadata: {labels: {app: quotes, version: v3}}
  template: {serviceAccount: quotes, ports: {http: 8080}}
  probe:
    periodSeconds: 1
    failureThreshold: 1
    httpGet: {path: /healthz, port: 8080}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: quotes}
spec:
  hosts: [quotes.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: quotes}}
"""

# Well as long as a file is there; every answer says how it is reached.
QUOTES = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ill = self.path == "/healthz" and not os.path.exists(sys.argv[1])
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(503 if ill else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("config.yaml", CONFIG)
        run.up()
        run.workload("client", "v1", ["sleep", "1000"], port="")
        run.wait_ready(CLIENT)
        yield run
    finally:
        run.close()


def get(mesh: MeshRun, url: str) -> tuple[int, str]:
    """Ask as the client's application; status 0: no answer."""
    code = (
        "import http.client, sys, urllib.parse\n"
        "url = urllib.parse.urlsplit(sys.argv[1])\n"
        "try:\n"
        "    client = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)\n"
        "    client.request('GET', url.path or '/')\n"
        "    answer = client.getresponse()\n"
        "    print(answer.status, answer.read().decode())\n"
        "except OSError as error:\n"
        "    print(0, error)\n"
    )
    result = mesh.inside(CLIENT, [sys.executable, "-c", code, url])
    assert result.returncode == 0, result.stderr
    status, _, body = result.stdout.decode().partition(" ")
    return int(status), body


def run_group(mesh: MeshRun, name: str, *words: str) -> subprocess.Popen[bytes]:
    return mesh.start(name, mesh.command("run", "--group", "vms", *words))


def test_a_workload_of_a_group_comes_falls_ill_recovers_and_leaves(mesh: MeshRun, tmp_path: Path) -> None:
    well = tmp_path / "well"
    run_group(mesh, "vms", "--", sys.executable, "-c", QUOTES, str(well))

    def member() -> dict[str, Any] | None:
        return next((w for w in mesh.status()["workloads"] if w["group"] == "vms"), None)

    # It is there, ill from the beginning, and status says of what.
    ill = eventually(lambda: (m := member()) and "status 503" in m["waitsFor"] and m, what="it is told to be ill")
    assert not ill["ready"]
    assert ill["name"].startswith("vms-")
    assert ill["identity"] == "spiffe://cluster.local/ns/default/sa/quotes"
    table = mesh.run("status").stdout
    assert f"http {ill['ip']}:8080/healthz: status 503" in " ".join(table.split())
    assert get(mesh, "http://quotes.example.com/")[0] == 503

    well.touch()
    eventually(lambda: get(mesh, "http://quotes.example.com/")[0] == 200, what="it is well")
    body = get(mesh, "http://quotes.example.com/")[1]
    assert "By=spiffe://cluster.local/ns/default/sa/quotes" in body

    well.unlink()
    eventually(lambda: get(mesh, "http://quotes.example.com/")[0] == 503, what="it is ill again")
    well.touch()
    eventually(lambda: get(mesh, "http://quotes.example.com/")[0] == 200, what="it is well again")

    mesh.stop("vms")
    eventually(lambda: member() is None, what="it has left")
    eventually(lambda: get(mesh, "http://quotes.example.com/")[0] == 503, what="its endpoint has left")


def test_a_group_that_does_not_exist_is_told(mesh: MeshRun) -> None:
    result = mesh.run("run", "--group", "vm", "--", "true")
    assert result.returncode != 0
    assert "no WorkloadGroup 'vm' in namespace 'default'; there are vms" in result.stderr


def test_an_identity_beside_the_groups_is_refused(mesh: MeshRun) -> None:
    result = mesh.run("run", "--group", "vms", "--service-account", "other", "--", "true")
    assert result.returncode != 0
    assert "--service-account" in result.stderr


class _Unix(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # http.server's name
        self.send_response(200)
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"unix")

    def log_message(self, *_: Any) -> None:
        """Say nothing; a Unix client has no address that could be told."""


def test_an_endpoint_may_be_a_unix_socket(mesh: MeshRun) -> None:
    path = mesh.root / "x.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), _Unix) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            mesh.write(
                "unix.yaml",
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: unix}\nspec:\n"
                "  hosts: [unix.example.com]\n  resolution: STATIC\n"
                "  ports: [{number: 80, name: http, protocol: HTTP}]\n"
                f"  endpoints: [{{address: 'unix://{path}'}}]\n",
            )
            eventually(lambda: get(mesh, "http://unix.example.com/") == (200, "unix\n"), what="it answers")
        finally:
            server.shutdown()
            thread.join()


NETWORKS = """
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {selector: {app: far}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: eastwest, labels: {topology.istio.io/network: east}}
spec: {selector: {app: eastwest}, ports: [{name: tls, port: 15443}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: eastwest}
spec:
  selector: {app: eastwest}
  servers:
  - port: {number: 15443, name: tls, protocol: TLS}
    hosts: ["*.local"]
    tls: {mode: AUTO_PASSTHROUGH}
"""


def test_a_workload_of_another_network_is_reached_by_its_gateway(mesh: MeshRun, tmp_path: Path) -> None:
    mesh.write("networks.yaml", NETWORKS)
    east = ["--network-name", "east"]
    mesh.start(
        "far-v1",
        mesh.command(
            *("run", "--service", "far", "--version", "v1", "--port", "http:8080", *east),
            *("--", sys.executable, "-c", QUOTES, str(tmp_path)),
        ),
    )
    mesh.start("eastwest", mesh.command("gateway", "--name", "eastwest", "--listen", f"{free_port()}:15443", *east))
    mesh.wait_ready("far-v1", "eastwest")

    def passed() -> int:
        """How many connections the gateway has passed on by the server name of that service."""
        lines = mesh.admin("eastwest", "/clusters").decode().splitlines()
        found = [line for line in lines if line.startswith("outbound_.80_._.far.") and "::cx_total::" in line]
        return sum(int(line.rpartition("::")[2]) for line in found)

    eventually(lambda: get(mesh, "http://far/")[0] == 200 and passed(), what="it is reached by way of the gateway")
    _, body = get(mesh, "http://far/")
    # The gateway only passes on: both ends know each other by their own identities.
    assert "By=spiffe://cluster.local/ns/default/sa/default" in body
    assert "URI=spiffe://cluster.local/ns/default/sa/default" in body
    info = mesh.workload_status("far-v1")
    assert info is not None
    assert info["ip"] not in mesh.admin(CLIENT, "/clusters").decode().partition("outbound|80||far")[2]
