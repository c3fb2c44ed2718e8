"""Mixer killed, and stopped, under load: what fails open passes, what fails closed is refused at once, TCP too."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.netns, pytest.mark.timeout(180)]

# Asked of Mixer for every request: a pattern in a list is none of Envoy's.
RULES = """
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: open, namespace: default}
spec:
  selector: {matchLabels: {app: lenient}}
  check: {list: {value: 'request.headers["x-who"]', values: [int.*], type: REGEX, deny: PRESENT, status: 423}}
  failurePolicy: open
---
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: closed, namespace: default}
spec:
  selector: {matchLabels: {app: strict}}
  check: {list: {value: 'request.headers["x-who"]', values: [int.*], type: REGEX, deny: PRESENT, status: 423}}
---
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: bytes-closed, namespace: default}
spec:
  selector: {matchLabels: {app: bytes}}
  check: {list: {value: source.principal, values: [nobody.*], type: REGEX, deny: PRESENT}}
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - {match: [{uri: {prefix: /lenient}}], route: [{destination: {host: lenient, port: {number: 9080}}}]}
  - {route: [{destination: {host: strict, port: {number: 9080}}}]}
"""
CLIENTS = 4
BACK_SECONDS = 1.5  # longer than Envoy gathers changes of a host's health, where it does
PATIENCE = 0.2  # seconds: what waits longer than this waited for Mixer


@dataclass
class Seen:
    """What clients saw: (path, status) -> how often; how long those took that took long."""

    outcomes: Counter[tuple[str, int]] = field(default_factory=Counter)
    slow: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@contextmanager
def load(mesh: MeshRun) -> Iterator[Seen]:
    """Ask both services all the time, over connections that are kept."""
    seen, stop = Seen(), threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", mesh.port, timeout=10)
        while not stop.is_set():
            for path in ("/lenient", "/strict"):
                began = time.monotonic()
                try:
                    connection.request("GET", path, headers={"x-who": "boss"})
                    answer = connection.getresponse()
                    answer.read()
                    seen.outcomes[path, answer.status] += 1
                except (OSError, http.client.HTTPException) as error:
                    seen.broken.append(repr(error))
                    connection.close()
                took = time.monotonic() - began
                if took > PATIENCE:
                    seen.slow.append(took)
            time.sleep(0.005)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.config.joinpath("all.yaml").write_text(GATEWAY + "---" + RULES)
        run.up()
        for app in ("lenient", "strict"):
            run.workload(app, "v1", [sys.executable, str(ECHO)])
        run.workload("bytes", "v1", [sys.executable, str(ECHO)], port="tcp:9080")
        run.workload("client", "v1", ["sleep", "600"], port="")
        run.gateway()
        run.wait_ready("lenient-v1", "strict-v1", "bytes-v1", "client-v1", "ingressgateway")
        eventually(lambda: run.get("/strict").status == 200 and run.get("/lenient").status == 200, what="first pages")
        yield run
    finally:
        run.close()


def mixer(mesh: MeshRun) -> int:
    return int((mesh.status().get("mixer") or {}).get("pid", 0))


def connects(mesh: MeshRun) -> bool:
    """Whether bytes reach the service that speaks TCP."""
    argv = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", "http://bytes:9080/"]
    return mesh.inside("client-v1", argv).stdout == b"200"


def decides(mesh: MeshRun) -> bool:
    interns = [mesh.get(path, {"x-who": "intern"}).status for path in ("/lenient", "/strict")]
    return interns == [423, 423] and mesh.get("/strict").status == 200 and connects(mesh)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_each_rule_fails_as_it_says_and_at_once(mesh: MeshRun, number: signal.Signals) -> None:
    eventually(lambda: decides(mesh), what="Mixer decides")
    pid = mixer(mesh)
    with load(mesh) as seen:
        time.sleep(0.5)
        assert set(seen.outcomes) == {("/lenient", 200), ("/strict", 200)}
        os.kill(pid, number)
        try:
            eventually(lambda: seen.outcomes["/strict", 503], what="closed rules refuse")
            if number == signal.SIGSTOP:
                # It hangs: new connections are refused as well, and that is known after a few that waited.
                assert not connects(mesh)
                eventually(lambda: seen.outcomes["/strict", 503] > 200, what="refusals, quickly")
        finally:
            if number == signal.SIGSTOP:
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: mixer(mesh) not in (0, pid), what="another Mixer")
        eventually(lambda: decides(mesh), what="it decides")
        refusals = seen.outcomes["/strict", 503]
        time.sleep(BACK_SECONDS)
        assert seen.outcomes["/strict", 503] == refusals, "one that is back is not out again"
    assert seen.broken == []
    assert {path for path, status in seen.outcomes if status == 200} == {"/lenient", "/strict"}
    assert {status for path, status in seen.outcomes if path == "/lenient"} == {200}, "open rules refuse nobody"
    assert {status for path, status in seen.outcomes if path == "/strict"} == {200, 503}
    refused = mesh.get("/strict", {"x-who": "intern"})
    assert refused.status == 423
    # Each client waited a few times: while Mixer was found out, and once for each second that it was tried again.
    assert len(seen.slow) < seen.outcomes["/strict", 503], seen.slow
