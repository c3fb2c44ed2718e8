"""Every file in tests/cases on one mesh with real Envoys; how to write one is told in tests/cases/README.md."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.case_files import FOLDER, Case, Request, faults_of, files, load, question, seen_faults
from tests.e2e.case_tokens import IssuerOfCases
from tests.e2e.harness import MeshRun, eventually
from tests.e2e.outside_dns import OutsideDns

from lateen.settings import Settings
from lateen.wire.control import call_control
from lateen.wire.local import Query, StatusReport

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

APPS = Path(__file__).parent / "apps"
APP = str(APPS / "cases_app.py")
HOLDS_SECONDS = 15.0
PORTS = ("http:8080", "web:8090", "tcp-lines:9000", "tls:9443")
SERVERS = (("echo", "v1", "default"), ("echo", "v2", "default"), ("echo", "v3", "default"))
OTHERS = (("shadow", "v1", "default"), ("away", "v1", "other"))
CLIENTS = {"client": ("client-v1", "default"), "stranger": ("stranger-v1", "other")}

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: web, port: 8090}}
  - {{name: tcp-lines, port: 9000}}
  - {{name: tls, port: 9443}}
---
"""

# Tells that the proxies have what was written before it: an answer of the proxy itself, another one for each case.
MARKER = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: case-marker, namespace: istio-system}}
spec:
  hosts: [marker.case]
  exportTo: ["*"]
  http:
  - directResponse: {{status: 200, body: {{string: "{nonce}"}}}}
"""


class Asker:
    """A process in some network that asks what it is told to."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, what: dict[str, Any]) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client of the cases ended"
        answers: list[Any] = json.loads(line)["answers"]
        return answers

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


class CaseMesh:
    """The mesh that all cases share."""

    def __init__(self, mesh: MeshRun, dns: OutsideDns, issuer: IssuerOfCases, stack: ExitStack) -> None:
        self.mesh = mesh
        self._stack = stack
        self._numbers = itertools.count(1)
        client = [sys.executable, str(APPS / "cases_client.py")]
        self.askers = {name: self._asker(mesh.enter(workload), client) for name, (workload, _) in CLIENTS.items()}
        self.askers["outside"] = self._asker(mesh.enter("ingressgateway"), client)
        self.askers["ingress"] = self._asker([], client)
        self.addresses = {info["name"]: info["ip"] for info in mesh.status()["workloads"]}
        self.variables = {name.upper().replace("-", "_"): address for name, address in self.addresses.items()}
        self.variables["OUTSIDE"] = dns.address = self.addresses["ingressgateway"]
        self.variables.update(issuer.variables)
        outsider = mesh.start_inside("ingressgateway", [sys.executable, APP, "outside", "v0"])
        stack.callback(outsider.communicate, timeout=10)
        stack.callback(outsider.terminate)
        assert outsider.stdout is not None
        assert outsider.stdout.readline() == b"serving\n"

    def _asker(self, enter: list[str], command: list[str]) -> Asker:
        process = subprocess.Popen([*enter, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        asker = Asker(process)
        self._stack.callback(asker.close)
        return asker

    # ---- one case

    def apply(self, case: Case) -> None:
        """Write a case's resources, and return when the proxies of the clients have what was written."""
        nonce = f"case-{next(self._numbers)}"
        if case.config.strip():
            self.mesh.write("case.yaml", case.config)
        self.mesh.write("marker.yaml", MARKER.format(nonce=nonce))
        for name in CLIENTS:
            marker = {
                "kind": "http",
                "method": "GET",
                "url": "http://marker.case/",
                "headers": {},
                "body": "",
                "times": 1,
                "connect": ["192.0.2.1", 80],  # any address will do, whatever names the case hides
            }
            eventually(
                lambda name=name, marker=marker: self.askers[name].ask(marker)[0]["body"] == nonce,  # type: ignore[misc]
                what=f"{name} has the case's configuration",
            )

    def faults(self, case: Case) -> list[str]:
        """Send every request of a case once and return what was not as expected."""
        return [f"{request.send}: {fault}" for request in case.requests for fault in self._faults(request)]

    def _faults(self, request: Request) -> list[str]:
        case_id = f"r{next(self._numbers)}"
        asked = question(request, case_id)
        if request.origin == "ingress" and asked["kind"] == "http":
            asked["connect"] = ["127.0.0.1", self.mesh.port]
        answers = self.askers[request.origin].ask(asked)
        faults = faults_of(request, answers)
        if faults:
            return faults
        if request.expect.attempts is not None:
            count = sum(len(self.seen(name, case_id)) for name in self.addresses if self._is_server(name))
            if count != request.expect.attempts * request.times:
                faults.append(f"attempts: wanted {request.expect.attempts} for each of {request.times}, got {count}")
        for service, wanted in request.expect.copies.items():
            if wanted == "none":
                faults.extend(f"copies: {service} got one" for _ in self._copies(service, case_id))
            else:
                assert not isinstance(wanted, str), f"copies of {service}: a form, or none"
                copies = eventually(
                    lambda service=service: self._copies(service, case_id),  # type: ignore[misc]
                    what=f"a copy at {service}",
                    seconds=5,
                )
                faults.extend(f"copy at {service}: {fault}" for copy in copies for fault in seen_faults(wanted, copy))
        return faults

    def _copies(self, service: str, case_id: str) -> list[Any]:
        return [copy for name in self.addresses if name.startswith(f"{service}-") for copy in self.seen(name, case_id)]

    @staticmethod
    def _is_server(name: str) -> bool:
        return name not in ("ingressgateway", *(workload for workload, _ in CLIENTS.values()))

    def seen(self, workload: str, case_id: str) -> list[Any]:
        """Return the requests with this id that a server saw, asked beside the mesh."""
        (answer,) = self.askers["outside"].ask(
            {
                "kind": "http",
                "method": "GET",
                "headers": {},
                "body": "",
                "times": 1,
                "connect": None,
                "url": f"http://{self.addresses[workload]}:8080/_seen?id={case_id}",
            }
        )
        assert answer["status"] == 200, answer
        found: list[Any] = json.loads(answer["body"])
        return found

    def untold(self, case: Case) -> list[str]:
        """Return what should be told of the case's resources, and is not."""
        told = self.told()
        return [wanted for wanted in case.status if not any(wanted in line for line in told)]

    def told(self) -> list[str]:
        """Return the errors and warnings that the control plane tells of the case's file."""
        report: StatusReport = call_control(Settings(state=self.mesh.state), "Status", Query())
        problems = [*report.errors, *report.warnings]
        return [f"{p.level}: {p.resource}: {p.field}: {p.message}" for p in problems if p.file.endswith("case.yaml")]


@pytest.fixture(scope="module")
def case_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaseMesh]:
    with ExitStack() as stack:
        issuer = stack.enter_context(IssuerOfCases(tmp_path_factory.mktemp("issuer")))
        mesh = MeshRun(extra=issuer.words)
        stack.callback(mesh.close)
        dns = stack.enter_context(OutsideDns())
        services = dict.fromkeys((name, namespace) for name, _, namespace in (*SERVERS, *OTHERS))
        mesh.write("services.yaml", "".join(SERVICE.format(name=n, namespace=ns) for n, ns in services))
        mesh.up()
        for name, version, namespace in (*SERVERS, *OTHERS):
            mesh.workload(
                name,
                version,
                [sys.executable, APP, name, version],
                port="",
                words=[
                    *("--namespace", namespace, "--service-account", name),
                    *(word for port in PORTS for word in ("--port", port)),
                ],
            )
        for workload, namespace in CLIENTS.values():
            service, _, version = workload.partition("-")
            words = ["--namespace", namespace, "--resolver", f"127.0.0.1:{dns.port}"]
            mesh.workload(service, version, ["sleep", "1000"], port="", words=words)
        mesh.gateway(["--resolver", f"127.0.0.1:{dns.port}"])
        names = [f"{name}-{version}" for name, version, _ in (*SERVERS, *OTHERS)]
        mesh.wait_ready(*names, *(workload for workload, _ in CLIENTS.values()), "ingressgateway")
        yield CaseMesh(mesh, dns, issuer, stack)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def test_case(path: Path, case_mesh: CaseMesh) -> None:
    case = load(path, case_mesh.variables)
    try:
        case_mesh.apply(case)
        last: list[str] = []

        def holds() -> bool:
            last[:] = case_mesh.faults(case)
            return not last

        try:
            eventually(holds, seconds=HOLDS_SECONDS, what=case.case)
        except AssertionError as error:
            problems = "\n  ".join(["", *case_mesh.told()])
            raise AssertionError("\n  ".join([str(error), *last]) + f"\nstatus:{problems}") from None
        told = case_mesh.told()
        if case.status:  # what lacks its other half is taken only after some patience
            eventually(lambda: not case_mesh.untold(case), what=f"{case.status} told: {told}", seconds=HOLDS_SECONDS)
        else:
            assert [line for line in told if not any(allowed in line for allowed in case.allow)] == []
    finally:
        (case_mesh.mesh.config / "case.yaml").unlink(missing_ok=True)


def test_there_are_cases() -> None:
    assert len(files()) > 3
