"""`lateen demo`: from one command to a page, a table and, after Ctrl-C, nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def demo() -> Iterator[MeshRun]:
    mesh = MeshRun()
    mesh.start(
        "demo",
        mesh.command("demo", "--config", str(mesh.config), "--gateway-port", str(mesh.port), "--plain", "--rate", "20"),
    )
    try:
        eventually(lambda: mesh.get("/productpage").status == 200, what="first page", seconds=60)
        yield mesh
    finally:
        mesh.close()


def test_an_empty_folder_is_filled_and_edges_are_shown(demo: MeshRun) -> None:
    assert sorted(path.name for path in demo.config.iterdir()) == ["gateway.yaml", "services.yaml"]
    wanted = ("ingressgateway", "productpage-v1", "details-v1", "reviews-v1", "reviews-v2", "reviews-v3", "ratings-v1")
    eventually(lambda: all(name in demo.log("demo") for name in wanted), what="every workload in the table", seconds=40)
    rows = [line for line in demo.log("demo").splitlines() if "reviews-v3" in line and "productpage-v1" in line]
    assert any("100.0%" in row and "yes" in row and "ms" in row for row in rows), rows
    assert f"http://127.0.0.1:{demo.port}/productpage" in demo.log("demo")


@pytest.mark.parametrize("part", ["controlPlane", "details-v1", "holder"])
def test_what_is_killed_comes_back(demo: MeshRun, part: str) -> None:
    status = demo.status()
    if part == "controlPlane":
        pid = status["controlPlane"]["pid"]
    elif part == "holder":
        (line,) = [line for line in demo.leftovers() if "lateen.net.holder" in line]
        pid = int(line.partition(":")[0])
    else:
        pid = next(workload["pid"] for workload in status["workloads"] if workload["name"] == part)
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        result = demo.run("status", "-o", "json")
        now = json.loads(result.stdout) if result.stdout else {"workloads": []}
        alive = {workload["pid"] for workload in now["workloads"]}
        return (
            len(now["workloads"]) == 7
            and pid not in alive | {now["controlPlane"]["pid"]}
            and all(w["ready"] and w["connected"] and w["mode"] == "capture" for w in now["workloads"])
            and demo.get("/api/v1/products/0").status == 200
        )

    eventually(back, what=f"{part} is back", seconds=60)


def test_an_interrupt_leaves_nothing_behind(demo: MeshRun) -> None:
    assert demo.stop("demo", number=signal.SIGINT, seconds=40) == 0
    assert demo.leftovers() == []
    assert not (demo.state / "run").exists()
    assert not (demo.state / "mesh.json").exists()
    for folder in ("w", "workloads"):
        assert list((demo.state / folder).iterdir()) == []
    assert not [line for line in Path("/proc/net/unix").read_text().splitlines() if str(demo.root) in line]
