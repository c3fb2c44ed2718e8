"""A mesh of a user without any right: namespaces, capture, identities and Ctrl-C, as uid 65534."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes import ordinary_user

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

CALL = "import urllib.request as u; print(u.urlopen('http://echo:9080/', timeout=8).read().decode())"
ASK = str(Path(__file__).parent / "apps" / "ask.py")

if os.geteuid() == 0:  # for everybody else, the other tests already are just that

    def test_the_same_as_a_user_who_is_nobody() -> None:
        """Run this file once more as uid 65534, in a place where it may read the interpreter and this repository."""
        home = tempfile.mkdtemp(prefix="lt-nobody-", dir="/tmp")
        os.chown(home, ordinary_user.NOBODY, ordinary_user.NOBODY)
        pytest_command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/e2e/test_ordinary_user.py",
        ]
        environment = {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                ordinary_user.command(pytest_command),
                cwd=ordinary_user.REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
        finally:
            shutil.rmtree(home)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 passed" in done.stdout

else:

    def test_a_small_mesh_without_rights() -> None:
        mesh = MeshRun()
        try:
            mesh.up()
            mesh.workload("echo", "v1", [sys.executable, str(ECHO)], words=["--service-account", "echo"])
            mesh.workload("client", "v1", [sys.executable, str(ECHO)])
            mesh.wait_ready("echo-v1", "client-v1")
            status = mesh.status()
            assert status["controlPlane"]["network"] == "rootless"
            assert {w["mode"] for w in status["workloads"]} == {"capture"}

            def answer() -> dict[str, str]:
                result = mesh.inside("client-v1", [sys.executable, ASK, "http", "http://echo:9080/", "1"])
                assert result.returncode == 0, result.stderr
                ((code, body),) = json.loads(result.stdout)
                assert code == 200, body
                headers: dict[str, str] = body["headers"]
                return headers

            headers = eventually(answer, what="an answer")
            assert "By=spiffe://cluster.local/ns/default/sa/echo" in headers["x-forwarded-client-cert"]
            assert "URI=spiffe://cluster.local/ns/default/sa/default" in headers["x-forwarded-client-cert"]
        finally:
            mesh.close()  # fails when anything is left

    def test_the_same_without_namespaces() -> None:
        mesh = MeshRun(network="explicit")
        try:
            mesh.up()
            mesh.workload("echo", "v1", [sys.executable, str(ECHO)])
            mesh.workload("client", "v1", [sys.executable, str(ECHO)])
            mesh.wait_ready("echo-v1", "client-v1")
            client = mesh.workload_status("client-v1")
            assert client is not None
            environment = dict(
                entry.split("=", 1)
                for entry in Path(f"/proc/{client['appPid']}/environ").read_text().split("\0")
                if "=" in entry
            )
            result = subprocess.run(
                [sys.executable, "-c", CALL],
                env=environment,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            assert result.returncode == 0, result.stderr
            assert "x-forwarded-client-cert" in json.loads(result.stdout)["headers"]
        finally:
            mesh.close()
