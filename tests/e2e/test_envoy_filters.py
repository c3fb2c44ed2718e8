"""EnvoyFilters of a whole mesh: bootstraps, and what `lateen proxy-status` and `lateen status` tell of patches."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.timeout(120)]

FILTERS = """\
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: start}
spec:
  workloadSelector: {labels: {app: echo}}
  configPatches:
  - applyTo: BOOTSTRAP
    patch:
      operation: MERGE
      value:
        stats_config: {statsMatcher: {inclusion_list: {patterns: [{prefix: runtime}]}}}
  - applyTo: BOOTSTRAP
    patch: {operation: MERGE, value: {stats_flush_interval: 0s}}
  - applyTo: BOOTSTRAP
    patch: {operation: MERGE, value: {node: {metadata: {LANE: blue}}}}
  - applyTo: CLUSTER
    match: {proxy: {metadata: {LANE: blue}}}
    patch: {operation: MERGE, value: {connect_timeout: 3s}}
  - applyTo: CLUSTER
    match: {proxy: {metadata: {LANE: green}}}
    patch: {operation: MERGE, value: {connect_timeout: 4s}}
  - applyTo: HTTP_FILTER
    match: {listener: {portNumber: 4}}
    patch: {operation: ADD, value: {name: a, config_discovery: {}}}
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun(network="explicit")
    try:
        run.write("filters.yaml", FILTERS)
        run.up()
        run.workload("echo", "v1", [sys.executable, str(ECHO)], port="http:8080")
        run.workload("other", "v1", [sys.executable, str(ECHO)], port="http:8080")
        run.wait_ready("echo-v1", "other-v1")
        yield run
    finally:
        run.close()


def patches(mesh: MeshRun, workload: str) -> dict[int, dict[str, Any]]:
    report = json.loads(mesh.run("proxy-status", workload, "-o", "json").stdout)
    return {patch["index"]: patch for patch in report["proxies"][0]["patches"]}


def test_a_proxy_starts_with_the_patches_of_its_bootstrap(mesh: MeshRun) -> None:
    assert "runtime.load_success" in mesh.admin("echo-v1", "/stats?filter=runtime").decode()
    assert "runtime.load_success" not in mesh.admin("other-v1", "/stats?filter=runtime").decode()
    # What was in the list before is still there.
    assert "cluster_manager.cluster_added" in mesh.admin("echo-v1", "/stats?filter=cluster_manager").decode()


def test_what_envoy_would_not_start_with_is_left_out_and_told(mesh: MeshRun) -> None:
    found = patches(mesh, "echo-v1")
    assert found[0]["note"] == "applied"
    assert found[1]["note"].startswith("left out: ")
    assert "StatsFlushInterval" in found[1]["note"] or "stats_flush_interval" in found[1]["note"]
    (problem,) = [entry for entry in mesh.status()["errors"] if "echo-v1" in entry["message"]]
    assert (problem["line"], problem["field"]) == (12, "spec.configPatches[1]")
    assert "runs without" in problem["message"]


def test_patches_ask_for_what_the_bootstrap_says_of_the_proxy(mesh: MeshRun) -> None:
    found = patches(mesh, "echo-v1")
    assert 4 not in found  # for proxies of another lane
    assert found[3]["resources"]["CDS"] > 0
    clusters = json.loads(mesh.admin("echo-v1", "/config_dump?resource=dynamic_active_clusters"))["configs"]
    assert {entry["cluster"]["connect_timeout"] for entry in clusters if "outbound" in entry["cluster"]["name"]} == {
        "3s"
    }


def test_a_patch_that_matches_nothing_names_itself(mesh: MeshRun) -> None:
    table = mesh.run("proxy-status").stdout
    (line,) = [line for line in table.splitlines() if "default/start[5]" in line]
    assert "matches nothing" in line
    assert line.rstrip().endswith("filters.yaml:22")
    warnings = [entry for entry in mesh.status()["warnings"] if entry["field"] == "spec.configPatches[5]"]
    assert [entry["message"] for entry in warnings] == ["matches nothing in any proxy that it is for"]


def test_a_new_patch_of_the_bootstrap_waits_for_the_next_start(mesh: MeshRun) -> None:
    more = "  - applyTo: BOOTSTRAP\n    patch: {operation: MERGE, value: {enable_dispatcher_stats: true}}\n"
    mesh.write("filters.yaml", FILTERS + more)
    eventually(lambda: patches(mesh, "echo-v1")[6]["note"] == "acts when the proxy starts again")
