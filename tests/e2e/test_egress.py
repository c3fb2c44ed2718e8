"""TLS to the world outside: all of it through an egress gateway, or from one sidecar that a rule gives a credential."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.certs import StrangeAuthority
from tests.fakes.tls_clients import Pair, make_pair, revoke, secret_yaml

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

APPS = Path(__file__).parent / "apps"
CLIENT = "client-v1"
MUTUAL, OPEN = 9999, 9998  # ports of the servers outside: one takes known clients only

# As Istio's own task for egress gateways has it: the sidecars send to the gateway, the gateway sends on with TLS.
THROUGH = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api}}
spec:
  hosts: [api.outside.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: https, protocol: HTTPS}}]
  endpoints: [{{address: {outside}, ports: {{http: 1, https: {mutual}}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: egressgateway}}
spec:
  selector: {{istio: egressgateway}}
  ports: [{{name: https, port: 443, targetPort: 8443}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: egress}}
spec:
  selector: {{istio: egressgateway}}
  servers:
  - port: {{number: 443, name: https, protocol: HTTPS}}
    hosts: [api.outside.test]
    tls: {{mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: to-the-gateway}}
spec:
  host: egressgateway
  subsets:
  - name: api
    trafficPolicy:
      portLevelSettings: [{{port: {{number: 443}}, tls: {{mode: ISTIO_MUTUAL, sni: api.outside.test}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api}}
spec:
  hosts: [api.outside.test]
  gateways: [mesh, egress]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: egressgateway, subset: api, port: {{number: 443}}}}}}]
  - match: [{{gateways: [egress], port: 443}}]
    route: [{{destination: {{host: api.outside.test, port: {{number: 443}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: from-the-gateway}}
spec:
  host: api.outside.test
  trafficPolicy:
    portLevelSettings:
    - port: {{number: 443}}
      tls: {{mode: MUTUAL, credentialName: partner, sni: api.outside.test, subjectAltNames: [api.outside.test]}}
"""

DIRECT = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.outside.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: {outside}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec:
  host: {name}.outside.test
  {selector}
  trafficPolicy: {{tls: {tls}}}
"""


@dataclass
class World:
    """A mesh with an egress gateway, and servers of TLS that are none of it."""

    run: MeshRun
    authority: StrangeAuthority
    pairs: dict[str, Pair]
    outside: str  # address of the servers

    def ask(self, host: str, count: int = 1) -> list[Any]:
        done = self.run.inside(CLIENT, [sys.executable, str(APPS / "ask.py"), "http", f"http://{host}/", str(count)])
        answers: list[Any] = json.loads(done.stdout)
        return answers

    def status(self, host: str) -> int:
        return int(self.ask(host)[0][0])

    def direct(self, name: str, port: int, tls: str, selector: str = "") -> None:
        text = DIRECT.format(name=name, port=port, outside=self.outside, tls=tls, selector=selector)
        self.run.write(f"{name}.yaml", text)

    def write_secret(self, name: str, text: str) -> None:
        temporary = self.run.state / "secrets" / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(temporary.with_name(f"{name}.yaml"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    run = MeshRun()
    servers: list[subprocess.Popen[bytes]] = []
    try:
        authority = StrangeAuthority()
        pairs = {
            "server": make_pair(authority, "api.outside.test", "own.outside.test", "files.outside.test"),
            "partner": make_pair(authority, "partner.test"),
        }
        (run.state / "secrets").mkdir(parents=True, mode=0o700)
        (run.root / "roots.pem").write_bytes(authority.root_pem)
        crt, key = pairs["server"].write(run.root, "server")
        run.up()
        run.start("egressgateway", run.command("gateway", "--name", "egressgateway", "--no-listen"))
        run.start("outside", run.command("gateway", "--name", "outside", "--no-listen"))
        run.workload("client", "v1", [sys.executable, str(ECHO)])
        run.wait_ready("egressgateway", "outside", CLIENT)
        for port, clients in ((MUTUAL, run.root / "roots.pem"), (OPEN, "")):
            serve = [f"CERT={crt}", f"KEY={key}", f"CLIENTS={clients}", sys.executable, str(APPS / "many.py")]
            servers.append(run.start_inside("outside", ["env", *serve, f"tls:{port}"]))
        found = run.workload_status("outside")
        assert found is not None
        world = World(run, authority, pairs, found["ip"])
        world.write_secret("partner", secret_yaml("partner", pairs["partner"], roots=authority.root_pem))
        run.write("through.yaml", THROUGH.format(outside=found["ip"], mutual=MUTUAL))
        yield world
    finally:
        for server in servers:
            server.terminate()
            server.communicate(timeout=10)
        run.close()


def test_all_traffic_for_a_host_outside_goes_through_the_egress_gateway(world: World) -> None:
    eventually(lambda: world.status("api.outside.test") == 200, what="the way out is open")
    (status, body), *_ = world.ask("api.outside.test")
    assert status == 200
    assert body["client"] == ["partner.test"]  # the gateway's credential, which no workload of the mesh holds
    assert body["port"] == MUTUAL
    assert "x-lateen-peer" not in body["headers"]
    metrics = world.run.metrics("egressgateway")
    assert 'destination_service="api.outside.test"' in metrics
    # A sidecar that the rule reaches may ask for it, and is given nothing.
    for name, given in (("egressgateway", True), (CLIENT, False)):
        listed = json.loads(world.run.run("proxy-config", "secrets", name, "-o", "json").stdout)
        held = [entry for entry in listed if "partner" in entry["name"] and entry["status"] == "ACTIVE"]
        assert bool(held) == given, (name, held)


def test_without_its_credential_the_gateway_sends_nothing_and_says_why(world: World) -> None:
    eventually(lambda: world.status("api.outside.test") == 200, what="the way out is open")
    rule = THROUGH.replace("credentialName: partner", "credentialName: nobody")
    world.run.write("through.yaml", rule.format(outside=world.outside, mutual=MUTUAL))
    eventually(lambda: world.status("api.outside.test") == 503, what="nothing is sent without a credential")
    told = [error for error in world.run.status()["errors"] if "nobody" in error["message"]]
    assert {error["field"] for error in told} == {"spec.trafficPolicy.portLevelSettings[0].tls.credentialName"}
    assert all(error["line"] > 1 for error in told)
    world.run.write("through.yaml", THROUGH.format(outside=world.outside, mutual=MUTUAL))
    eventually(lambda: world.status("api.outside.test") == 200, what="the way out is open again")


def test_a_sidecar_that_a_rule_picks_has_the_credential_itself(world: World) -> None:
    tls = "{mode: MUTUAL, credentialName: partner, sni: own.outside.test}"
    # A rule for all sidecars brings them nothing: not even in plain text is anything sent.
    world.direct("own", MUTUAL, tls)
    eventually(lambda: world.status("own.outside.test") == 503, what="nothing is sent without the credential")
    world.direct("own", MUTUAL, tls, "workloadSelector: {matchLabels: {app: client}}")
    eventually(lambda: world.status("own.outside.test") == 200, what="the sidecar has the credential")
    assert world.ask("own.outside.test")[0][1]["client"] == ["partner.test"]


def test_a_server_that_was_revoked_is_not_spoken_to(world: World) -> None:
    roots, crl = world.run.root / "roots.pem", world.run.root / "crl.pem"
    crl.write_bytes(revoke(world.authority, world.pairs["server"]))
    world.direct("files", OPEN, f"{{mode: SIMPLE, caCertificates: {roots}, caCrl: {crl}, sni: files.outside.test}}")
    eventually(lambda: world.status("files.outside.test") == 503, what="the server is not spoken to")
    crl.write_bytes(revoke(world.authority, world.pairs["partner"]))
    eventually(lambda: world.status("files.outside.test") == 200, what="the new list counts")
