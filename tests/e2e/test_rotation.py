"""Certificates of twelve seconds under load: renewed in time, seen by nobody, also while Citadel is away."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

CALLER = Path(__file__).parent / "apps" / "caller.py"
LOAD_SECONDS = 28.0
# With the time that it takes to come back on a slow machine, well below the half life of six seconds: who asked just
# before it went has no longer.
CITADEL_AWAY_SECONDS = 2.0


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun(extra=["--cert-ttl", "12s"])
    try:
        run.up()
        for service in ("front", "back"):
            run.workload(service, "v1", [sys.executable, str(ECHO)], words=["--service-account", service])
        run.wait_ready("front-v1", "back-v1")
        yield run
    finally:
        run.close()


def test_certificates_are_renewed_under_load_and_no_request_fails(mesh: MeshRun) -> None:
    load = mesh.start_inside("front-v1", [sys.executable, str(CALLER), "http://back:9080/", str(LOAD_SECONDS), "0.02"])
    serials: dict[str, list[str]] = {"front-v1": [], "back-v1": []}
    shortest_left = 12.0
    began = time.monotonic()
    was_away = False
    while load.poll() is None:
        # Away at a moment when each half life passes at least once soon after: what renews must try again by itself.
        if not was_away and time.monotonic() - began > 8:
            mesh.stop("up", number=signal.SIGKILL)
            time.sleep(CITADEL_AWAY_SECONDS)
            mesh.up()
            was_away = True
        for info in mesh.status()["workloads"]:
            certificate = info["certificate"]
            left = (datetime.fromisoformat(certificate["notAfter"]) - datetime.now(UTC)).total_seconds()
            shortest_left = min(shortest_left, left)
            known = serials[info["name"]]
            if certificate["serial"] not in known:
                known.append(certificate["serial"])
        time.sleep(0.3)
    out, err = load.communicate(timeout=10)
    result = json.loads(out or b"{}")
    assert result, err
    assert result["bad"] == []
    assert result["sent"] > 200
    assert result["kept_reopened"] == 0, "a kept connection outlives the certificates it was made with"
    assert was_away
    for name, seen in serials.items():
        assert len(seen) >= 4, f"{name} had the certificates {seen} in {LOAD_SECONDS} s"
    assert shortest_left > 0


def test_envoy_holds_what_the_status_tells(mesh: MeshRun) -> None:
    def held(name: str) -> bool:
        # Certificates of 12 s: one may be renewed between the two looks.
        info = mesh.workload_status(name)
        assert info is not None
        certificates = json.loads(mesh.admin(name, "/certs"))["certificates"]
        serials = {chain["serial_number"].lower().lstrip("0") for one in certificates for chain in one["cert_chain"]}
        return info["certificate"]["serial"].lower().lstrip("0") in serials

    for name in ("front-v1", "back-v1"):
        eventually(lambda name=name: held(name), what=f"{name} holds what it tells", seconds=5)  # type: ignore[misc]
