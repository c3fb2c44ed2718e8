"""Applications that want their SVID themselves, with the client that the rest of the world uses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.timeout(120)]

APP = Path(__file__).parent / "apps" / "svid.py"
WEB = "spiffe://cluster.local/ns/default/sa/web"


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun(extra=["--cert-ttl", "6s"])
    try:
        run.up()
        run.workload("web", "v1", [sys.executable, str(APP)], port="", words=["--service-account", "web"])
        yield run
    finally:
        run.close()


def told(mesh: MeshRun, workload: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mesh.log(workload).splitlines() if line.startswith("{")]


def svids(mesh: MeshRun) -> list[dict[str, Any]]:
    return [line for line in told(mesh, "web-v1") if "serial" in line]


def test_its_own_identity_and_a_token_of_it(mesh: MeshRun) -> None:
    first = eventually(lambda: svids(mesh), what="an SVID")[0]
    assert first["spiffe_id"] == WEB
    assert first["key_fits"]
    root = (mesh.state / "ca").rglob("ca-cert.pem")
    assert first["bundles"] == {"cluster.local": [next(root).read_text()]}
    (token,) = [line for line in told(mesh, "web-v1") if "token_of" in line]
    assert token == {"token_of": WEB, "audience": ["db"]}


def test_it_is_told_of_each_renewal_and_the_proxy_has_another_key(mesh: MeshRun) -> None:
    eventually(lambda: len({line["serial"] for line in svids(mesh)}) >= 3, what="renewals")
    assert {line["spiffe_id"] for line in svids(mesh)} == {WEB}
    proxy = json.loads(mesh.admin("web-v1", "/certs"))["certificates"][0]["cert_chain"][0]["serial_number"]
    assert proxy.lstrip("0").lower() not in {line["serial"] for line in svids(mesh)}


def test_the_trail_has_each_of_them(mesh: MeshRun) -> None:
    eventually(lambda: svids(mesh), what="an SVID")
    lines = [json.loads(line) for line in (mesh.state / "audit.jsonl").read_text().splitlines()]
    assert {line["serial"] for line in svids(mesh)} <= {line.get("serial") for line in lines}
    (token,) = [line for line in lines if line.get("kind") == "jwt"]
    assert (token["event"], token["identity"], token["audience"]) == ("issued", WEB, "db")


def test_another_workload_of_the_same_user_does_not_get_it(mesh: MeshRun) -> None:
    socket = mesh.state / "w" / "web-v1" / "svid.sock"
    eventually(socket.exists, what="the socket")
    mesh.workload("thief", "v1", [sys.executable, str(APP), str(socket)], port="")
    (line,) = eventually(lambda: told(mesh, "thief-v1"), what="the thief's word")
    assert "refused" in line
    assert "UNAVAILABLE" in line["refused"]
    assert "is not of this workload" in mesh.log("web-v1")
