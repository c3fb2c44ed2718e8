"""Roots are replaced in a mesh that works: no request fails, whatever is restarted, stopped or away meanwhile."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.pki import make_link, plug, swap

from lateen.errors import Unavailable
from lateen.settings import Settings
from lateen.wire.authority import AUTHORITY_METHODS, AUTHORITY_SERVICE, AuthorityReport, ReportQuery
from lateen.wire.control import call_service

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

CALLER = Path(__file__).parent / "apps" / "caller.py"


# Without it, proxies would go on with the connections that they have, and nothing would be checked by any root.
NEW_CONNECTIONS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: back, namespace: default}
spec:
  host: back
  trafficPolicy:
    connectionPool: {http: {maxRequestsPerConnection: 1}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec:
  mtls: {mode: STRICT}
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun(extra=["--cert-ttl", "20s", "--root-settle", "100ms"])
    try:
        run.write("tls.yaml", NEW_CONNECTIONS)
        run.up()
        for service in ("front", "back"):
            run.workload(service, "v1", [sys.executable, str(ECHO)], words=["--service-account", service])
        run.wait_ready("front-v1", "back-v1")
        yield run
    finally:
        run.close()


def report(mesh: MeshRun) -> AuthorityReport:
    """Return what `lateen ca status` shows; without its process, since tests ask until something holds."""
    try:
        answer = call_service(Settings(state=mesh.state), AUTHORITY_SERVICE, AUTHORITY_METHODS, "Report", ReportQuery())
    except Unavailable as error:
        raise AssertionError(str(error)) from error
    assert isinstance(answer, AuthorityReport)
    return answer


def waits_for(mesh: MeshRun) -> list[str]:
    return [each.workload for each in report(mesh).rotation.waits_for]


def phase(mesh: MeshRun) -> str:
    return report(mesh).rotation.phase


def ca(mesh: MeshRun, *words: str) -> Any:
    result = mesh.run("ca", *words, "-o", "json", seconds=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def served_roots(mesh: MeshRun, workload: str) -> set[str]:
    """Return the serials of the roots by which a workload's Envoy checks its peers."""
    certificates = json.loads(mesh.admin(workload, "/certs"))["certificates"]
    return {each["serial_number"].lstrip("0") for one in certificates for each in one.get("ca_cert", ())}


def signed_by(mesh: MeshRun) -> set[str]:
    """Return by which ways the certificates were signed that the workloads' Envoys use."""
    return {info["certificate"]["signingPath"] for info in mesh.status()["workloads"]}


def issuer_serials(mesh: MeshRun) -> set[str]:
    return {root.serial for root in report(mesh).roots}


def connections(mesh: MeshRun, workload: str, cluster: str) -> int:
    """Return how many connections a proxy has made to the endpoints of a cluster."""
    clusters = json.loads(mesh.admin(workload, "/clusters?format=json"))["cluster_statuses"]
    (hosts,) = (each["host_statuses"] for each in clusters if each["name"] == cluster)
    return sum(int(s.get("value", 0)) for host in hosts for s in host["stats"] if s["name"] == "cx_total")


def test_the_root_is_replaced_under_load_over_restarts_and_with_a_proxy_away(mesh: MeshRun) -> None:
    (old,) = issuer_serials(mesh)
    load = mesh.start_inside("front-v1", [sys.executable, str(CALLER), "http://back:9080/", "90", "0.02"])
    back = mesh.processes["back-v1"]

    # A workload that is away holds the rotation up, and is named.
    back.send_signal(signal.SIGSTOP)
    try:
        assert ca(mesh, "rotate", "root")["phase"] == "distributing"
        eventually(lambda: waits_for(mesh) == ["back-v1"], what="front is there")
        assert len(issuer_serials(mesh)) == 2
        # Nothing is signed by the new root meanwhile, and a control plane that ends here goes on where it was.
        assert report(mesh).chain[0].serial == old
        mesh.stop("up", number=signal.SIGKILL)
        mesh.up()
        assert phase(mesh) == "distributing"
        assert report(mesh).chain[0].serial == old
        time.sleep(1.0)
        assert waits_for(mesh) == ["back-v1"]
    finally:
        back.send_signal(signal.SIGCONT)

    eventually(lambda: phase(mesh) == "reissuing", what="all trust the new root")
    (new,) = issuer_serials(mesh) - {old}
    assert report(mesh).chain[0].serial == new
    mesh.stop("up", number=signal.SIGKILL)
    mesh.up()
    assert len(issuer_serials(mesh)) == 2
    eventually(lambda: waits_for(mesh) == [], what="both use certificates of the new root")
    assert phase(mesh) == "reissuing"  # others may have been issued, and have not expired
    assert ca(mesh, "rotate", "finish")["phase"] == "steady"
    assert issuer_serials(mesh) == {new}
    for name in ("front-v1", "back-v1"):
        eventually(lambda name=name: served_roots(mesh, name) == {new}, what=f"{name} forgets the old root")  # type: ignore[misc]

    load.send_signal(signal.SIGINT)
    out, err = load.communicate(timeout=10)
    result = json.loads(out or b"{}")
    assert result, err
    assert result["bad"] == []
    assert result["sent"] > 200
    assert result["kept_reopened"] == 0
    events = [entry["reason"] for entry in ca(mesh, "audit", "--event", "roots-changed")]
    assert [event.split(":")[0] for event in events] == [
        "rotation begins",
        "new root signs",
        "rotation hurried",
        "rotation done",
    ]
    assert connections(mesh, "front-v1", "outbound|9080||back.default.svc.cluster.local") > 200


def test_a_rotation_is_aborted_after_the_new_root_has_signed(mesh: MeshRun) -> None:
    (before,) = issuer_serials(mesh)
    load = mesh.start_inside("front-v1", [sys.executable, str(CALLER), "http://back:9080/", "90", "0.02"])
    ca(mesh, "rotate", "root")
    eventually(
        lambda: phase(mesh) == "reissuing" and waits_for(mesh) == [], what="both use certificates of the new root"
    )
    new_way = signed_by(mesh)
    assert ca(mesh, "rotate", "abort")["phase"] == "reissuing"
    assert report(mesh).chain[0].serial == before
    eventually(lambda: waits_for(mesh) == [] and not signed_by(mesh) & new_way, what="both are back")
    assert ca(mesh, "rotate", "finish")["phase"] == "steady"
    assert issuer_serials(mesh) == {before}
    for name in ("front-v1", "back-v1"):
        eventually(lambda name=name: served_roots(mesh, name) == {before}, what=f"{name} forgets the new root")  # type: ignore[misc]
    load.send_signal(signal.SIGINT)
    out, err = load.communicate(timeout=10)
    result = json.loads(out or b"{}")
    assert result, err
    assert result["bad"] == []


def test_a_set_is_plugged_in_and_its_intermediate_replaced_under_load(mesh: MeshRun) -> None:
    root = make_link("offline root")
    (before,) = issuer_serials(mesh)
    load = mesh.start_inside("front-v1", [sys.executable, str(CALLER), "http://back:9080/", "90", "0.02"])
    # From the self-signed root to one that was plugged in: by the same way.
    plug(mesh.state / "cacerts", [make_link("first", root)], [root])
    eventually(lambda: phase(mesh) == "reissuing", what="all trust the root that was plugged in")
    assert issuer_serials(mesh) == {before, f"{root.certificate.serial_number:x}"}
    eventually(lambda: waits_for(mesh) == [], what="both use certificates of the intermediate")
    assert ca(mesh, "rotate", "finish")["phase"] == "steady"
    # Another intermediate under it signs at once, and every certificate is replaced.
    second = make_link("second", root, life=timedelta(minutes=5))
    first = signed_by(mesh)
    swap(mesh.state / "cacerts", [second], [root])
    serial = f"{second.certificate.serial_number:x}"
    eventually(lambda: len(signed_by(mesh) - first) == 1 and not signed_by(mesh) & first, what="both have its chain")
    assert phase(mesh) == "steady"
    # One that ends so soon is no reason to wait until certificates are shortened by it: those of 20 s are not.
    assert [problem for problem in mesh.status()["errors"] if "expires" in problem["message"]] == []
    # A faulty set changes nothing and is told with its file.
    (mesh.state / "cacerts" / "ca-key.pem").chmod(0o644)
    told = eventually(
        lambda: [p["message"] for p in mesh.status()["errors"] if "not in force" in p["message"]], what="it is told"
    )
    assert "cacerts/ca-key.pem: mode 0644 lets others in" in told[0]
    assert serial in {link.serial for link in report(mesh).chain}
    load.send_signal(signal.SIGINT)
    out, err = load.communicate(timeout=10)
    result = json.loads(out or b"{}")
    assert result, err
    assert result["bad"] == []
    assert result["sent"] > 100
