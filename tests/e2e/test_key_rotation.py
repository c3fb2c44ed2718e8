"""An issuer on the machine, a whole mesh, and keys that change, fail and come back: no good token is ever refused."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.certs import StrangeAuthority
from tests.fakes.tokens import jwks, sign
from tests.fakes.web import Web, json_answer

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

ISSUER = "https://id.test"
CONFIG = """
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
  http: [{route: [{destination: {host: back, port: {number: 9080}}}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: everywhere, namespace: istio-system}
spec:
  jwtRules:
  - issuer: https://id.test
    jwksUri: JWKS
    forwardOriginalToken: true  # the gateway checks it, and the sidecar behind it again
"""


@contextmanager
def asking(mesh: MeshRun, token: Callable[[], str]) -> Iterator[list[int]]:
    """Ask all the time on one connection, and give what came back, in order."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", mesh.port, timeout=10)
        while not stop.is_set():
            connection.request("GET", "/", headers={"authorization": f"Bearer {token()}"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            assert response.getheader("connection") is None
            stop.wait(0.01)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def token(key: str) -> str:
    return sign({"iss": ISSUER, "sub": "alice"}, key)


def drained(mesh: MeshRun) -> int:
    """Return how many listeners of the gateway and the sidecar changed since they started."""
    names = r"listener_manager\.listener_(modified|in_place_updated|added)"
    text = "".join(mesh.admin(name, f"/stats?filter={names}").decode() for name in ("ingressgateway", "back-v1"))
    return sum(int(number) for number in re.findall(r": (\d+)", text))


def test_keys_rotate_fail_and_come_back_and_no_good_token_is_refused(tmp_path: Path) -> None:
    authority = StrangeAuthority()
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.root_pem)
    with Web({"/jwks": json_answer(jwks("ec"))}, authority=authority, names=["localhost"]) as web:
        words = ["--allow-fetch", "127.0.0.1", "--fetch-ca", str(roots), "--jwks-refresh", "1s", "--jwks-keep", "1h"]
        mesh = MeshRun(extra=words)
        try:
            mesh.write("edge.yaml", CONFIG.replace("JWKS", web.url("/jwks", "localhost")))
            mesh.up()
            mesh.workload("back", "v1", [sys.executable, str(ECHO)])
            mesh.gateway()
            mesh.wait_ready("back-v1", "ingressgateway")
            old, new, never = token("ec"), token("ec-2"), token("rsa")

            def status(which: str) -> int:
                return mesh.get("/", {"authorization": f"Bearer {which}"}).status

            eventually(lambda: status(old) == 200, what="the issuer's key is had")
            assert status(new) == status(never) == 401
            before = drained(mesh)

            # The issuer publishes another key beside the first, signs with it, and takes the first one away.
            signs_with = [old]
            with asking(mesh, lambda: signs_with[0]) as statuses:
                web.answers["/jwks"] = json_answer(jwks("ec", "ec-2"))
                with asking(mesh, lambda: old) as olds:
                    eventually(lambda: status(new) == 200, what="the second key is had")
                    signs_with[0] = new
                    reached = len(statuses)
                    eventually(lambda: len(statuses) > reached + 50, what="some requests with each")
                web.answers["/jwks"] = json_answer(jwks("ec-2"))
                eventually(lambda: status(old) == 401, what="the first key is believed no more")
                reached = len(statuses)
                eventually(lambda: len(statuses) > reached + 50, what="some requests more")

                # The issuer goes away, the control plane is killed, and comes back while there is no issuer.
                web.answers["/jwks"] = json_answer("<html>", "text/html", "503 Away")
                eventually(lambda: 'sources{state="kept"} 1' in mesh.run("metrics").stdout, what="keys are kept")
                assert "keys are not renewed: https://localhost" in mesh.run("status").stdout
                mesh.stop("up", number=signal.SIGKILL)
                mesh.up()
                mesh.wait_ready("back-v1", "ingressgateway")
                eventually(lambda: 'sources{state="kept"} 1' in mesh.run("metrics").stdout, what="keys are known again")
                reached = len(statuses)
                eventually(lambda: len(statuses) > reached + 50, what="some requests after the restart")
                assert status(never) == 401
                web.answers["/jwks"] = json_answer(jwks("ec-2"))
                eventually(lambda: 'sources{state="fresh"} 1' in mesh.run("metrics").stdout, what="the issuer is back")

                # It withdraws its last key: nothing stands in.
                web.answers["/jwks"] = json_answer(jwks("ec-2", "rsa"))
                eventually(lambda: status(never) == 200, what="a third key is had")
                signs_with[0] = never
            web.answers["/jwks"] = json_answer(json.dumps({"keys": []}))
            eventually(lambda: status(never) == 401, what="no key is left")
            assert mesh.get("/").status == 200
            assert set(statuses) == {200}
            assert set(olds) == {200}
            assert drained(mesh) == before, "a listener changed with a key, so that connections were drained"
        finally:
            mesh.close()
    assert len(statuses) > 200
