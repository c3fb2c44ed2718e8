"""The bootstrap: what it says, and that a real Envoy takes it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.agent_mesh import MESH

from lateen.agent.bootstrap import BootstrapInput, build_bootstrap, encode_bootstrap
from lateen.agent.envoy import find_envoy
from lateen.agent.spec import Place, WorkloadSpec, build_node
from lateen.wire.local import ProxySettings
from lateen.wire.readers import metrics_readers

SPEC = WorkloadSpec(name="reviews-v3", service="reviews", version="v3", argv=("app",), locality="r/z")


def make_input(mark: int | None = 1337, address: str = "0.0.0.0", own_service: str = "") -> BootstrapInput:
    return BootstrapInput(
        node=build_node(SPEC, Place(mode="capture", ip="10.77.0.2"), MESH),
        xds="/s/run/xds.sock",
        sds_socket="/s/w/r/sds.sock",
        admin_socket="/s/w/r/admin.sock",
        prometheus_address=address,
        metrics_readers=metrics_readers("10.77.0.2", ["10.1.0.0/16"]),
        mark=mark,
        own_service=own_service,
    )


@pytest.mark.envoy
@pytest.mark.parametrize(
    "inp",
    [make_input(), make_input(None, "127.77.0.5"), make_input(own_service="reviews.default.svc.cluster.local")],
    ids=["captured", "explicit", "knows its own service"],
)
def test_envoy_takes_it(inp: BootstrapInput, tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_bytes(encode_bootstrap(build_bootstrap(inp)))
    argv = [str(find_envoy()), "--mode", "validate", "-c", str(path), "--disable-hot-restart", "-l", "warning"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warning about something deprecated or unknown either


def test_what_the_mesh_says_of_its_proxies() -> None:
    proxy = ProxySettings(
        stats_prefixes=("a",),
        stats_suffixes=("b",),
        stats_regexes=("c",),
        runtime={"d": "1", "e": "x"},
        connection_limit=7,
    )
    document = build_bootstrap(replace(make_input(), proxy=proxy))
    kept = document["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    assert {"prefix": "a"} in kept
    assert {"suffix": "b"} in kept
    assert {"safe_regex": {"regex": "c"}} in kept
    assert {"prefix": "istio"} in kept  # what is counted anyway still is
    runtime = document["layered_runtime"]["layers"][0]["static_layer"]
    assert (runtime["d"], runtime["e"]) == (1, "x")
    (monitor,) = document["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == 7


def test_same_input_same_bytes() -> None:
    assert encode_bootstrap(build_bootstrap(make_input())) == encode_bootstrap(build_bootstrap(make_input()))


def test_only_captured_proxies_mark_their_sockets() -> None:
    marked = build_bootstrap(make_input(1337))["cluster_manager"]["upstream_bind_config"]["socket_options"]
    assert [(option["level"], option["name"], option["int_value"]) for option in marked] == [(1, 36, 1337)]
    assert build_bootstrap(make_input(None))["cluster_manager"] == {}


def test_the_control_plane_must_prove_its_name_and_the_proxy_its_identity() -> None:
    clusters = {cluster["name"]: cluster for cluster in build_bootstrap(make_input())["static_resources"]["clusters"]}
    tls = clusters["xds-grpc"]["transport_socket"]["typed_config"]
    common = tls["common_tls_context"]
    assert tls["sni"] == "pilot.lateen.local"
    assert [secret["name"] for secret in common["tls_certificate_sds_secret_configs"]] == ["default"]
    validation = common["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "CONTROLPLANECA"
    names = validation["default_validation_context"]["match_typed_subject_alt_names"]
    assert names == [{"san_type": "DNS", "matcher": {"exact": "pilot.lateen.local"}}]


def test_nothing_listens_but_metrics_and_admin_is_no_port() -> None:
    document = build_bootstrap(make_input())
    listeners = document["static_resources"]["listeners"]
    assert [listener["address"]["socket_address"]["port_value"] for listener in listeners] == [15090]
    assert document["admin"]["address"] == {"pipe": {"path": "/s/w/r/admin.sock", "mode": 0o600}}
    paths = json.dumps(listeners)
    assert "/stats/prometheus" in paths
    assert "quitquitquit" not in paths


def test_a_proxy_waits_for_its_configuration_without_limit() -> None:
    resources = build_bootstrap(make_input())["dynamic_resources"]
    assert resources["lds_config"]["initial_fetch_timeout"] == resources["cds_config"]["initial_fetch_timeout"] == "0s"
    assert resources["ads_config"]["api_type"] == "DELTA_GRPC"
