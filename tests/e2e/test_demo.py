"""`lateen demo`: from one command to a page, a table and, after Ctrl-C, nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

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


@pytest.fixture(scope="module")
def observed() -> Iterator[MeshRun]:
    mesh = MeshRun()
    words = ["--config", str(mesh.config), "--gateway-port", str(mesh.port), "--plain", "--rate", "10", "--observe"]
    mesh.start("demo", mesh.command("demo", *words))
    try:
        eventually(lambda: "access logs: " in mesh.log("demo"), what="the addresses", seconds=60)
        yield mesh
    finally:
        mesh.close()


def test_observed_every_request_is_a_trace_through_the_whole_shop(observed: MeshRun) -> None:
    def whole() -> str:
        listed = json.loads(observed.run("trace", "-o", "json").stdout)
        wanted = {
            "ingressgateway.default",
            "productpage.default",
            "reviews.default",
            "ratings.default",
            "details.default",
        }
        for one in listed:
            if set(one["services"]) == wanted:
                shown = observed.run("trace", str(one["traceId"])).stdout
                # One tree: all is below the request at the gateway. Spans may still be on their way.
                first, *below = shown.splitlines()[2:] or [""]
                if first.startswith("ingressgateway.default") and all(line[0] in "├│└ " for line in below):
                    return shown
        return ""

    eventually(whole, what="a trace of all services as one tree", seconds=60)
    assert not [line for line in observed.run("trace", "-n", "100").stdout.splitlines() if "collector.default" in line]


def test_observed_lines_of_every_proxy_are_shown(observed: MeshRun) -> None:
    lines = eventually(lambda: observed.run("logs", "*").stdout.splitlines(), what="lines")
    assert {line.partition(" | ")[0].strip() for line in lines} >= {"productpage-v1", "details-v1", "ingressgateway"}
    assert not [line for line in lines if line.startswith("collector")]
    # From a line to its trace: the line tells the request's id.
    (request_id,) = set(re.findall(r'"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"', lines[0]))
    eventually(lambda: observed.run("trace", request_id).returncode == 0, what="the trace of a line")


def test_observed_a_prometheus_counts_or_is_said_to_be_missing(observed: MeshRun) -> None:
    log = observed.log("demo")
    if shutil.which("prometheus") is None:
        assert "no Prometheus on the PATH (Debian: apt-get install prometheus)" in log
        return
    found = re.search(r"Prometheus: (http://127\.0\.0\.1:\d+); try\nlateen demo:   (.*)", log)
    assert found is not None, log
    url = f"{found[1]}/api/v1/query?{urlencode({'query': found[2]})}"

    def rates() -> bool:
        with urlopen(url, timeout=10) as answer:
            results = json.load(answer)["data"]["result"]
        edges = {
            (r["metric"]["source_workload"], r["metric"]["destination_workload"]): float(r["value"][1]) for r in results
        }
        return edges.get(("ingressgateway", "productpage-v1"), 0) > 0 and edges.get(("reviews-v3", "ratings-v1"), 0) > 0

    eventually(rates, what="rates of the shop", seconds=60)


def test_observed_all_of_it_ends_with_the_demo(observed: MeshRun) -> None:
    assert observed.stop("demo", number=signal.SIGINT, seconds=40) == 0
    assert observed.leftovers() == []
    # A demo that is not observed traces nothing.
    assert (observed.config / "observe.yaml").exists()
    from lateen.demo.observing import write_config

    write_config(observed.config, wanted=False)
    assert not (observed.config / "observe.yaml").exists()
    write_config(observed.config, wanted=True)
    (observed.config / "observe.yaml").write_text("# mine\n")
    for wanted in (False, True):
        write_config(observed.config, wanted=wanted)
        assert (observed.config / "observe.yaml").read_text() == "# mine\n"
