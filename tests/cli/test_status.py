"""`lateen status` and `lateen proxy-status`: reports in, tables, data and exit codes out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from lateen.cli import main
from lateen.wire.local import (
    CertificateInfo,
    ControlPlaneInfo,
    MetricsReport,
    PatchInfo,
    ProblemInfo,
    ProxyInfo,
    ProxyReport,
    QuarantineInfo,
    Query,
    StatusReport,
    TypeInfo,
    WorkloadInfo,
)


def _in(delta: timedelta) -> str:
    # A little more, so that the time which the test takes does not change the largest two units.
    return (datetime.now(UTC) + delta + timedelta(seconds=30)).isoformat()


def make_workload(**fields: Any) -> WorkloadInfo:
    defaults: dict[str, Any] = {
        "name": "reviews-v3",
        "kind": "sidecar",
        "namespace": "default",
        "service": "reviews",
        "version": "v3",
        "pid": 4242,
        "app_pid": 4243,
        "envoy_pid": 4244,
        "ip": "10.77.0.5",
        "ports": (),
        "mode": "capture",
        "identity": "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
        "ready": True,
        "connected": True,
        "certificate": CertificateInfo(
            serial="abc", not_before=_in(-timedelta(hours=1)), not_after=_in(timedelta(hours=23))
        ),
    }
    return WorkloadInfo(**{**defaults, **fields})


def make_report(**fields: Any) -> StatusReport:
    plane = ControlPlaneInfo(
        pid=4000,
        version="0.1.0",
        started=_in(-timedelta(hours=1)),
        config="/tmp/mesh",
        trust_domain="cluster.local",
        root_expires=_in(timedelta(days=3650)),
        network="rootless",
        resources=12,
        services=4,
        proxies=1,
    )
    defaults: dict[str, Any] = {"control_plane": plane, "workloads": (make_workload(),), "errors": (), "warnings": ()}
    return StatusReport(**{**defaults, **fields})


def make_proxy(**types: TypeInfo) -> ProxyInfo:
    return ProxyInfo(
        name="reviews-v3",
        node="n",
        namespace="default",
        version="1.40.0",
        connected="2026-11-24T01:02:03Z",
        types=types,
    )


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the control plane answers next; the queries it was asked are appended to it."""
    box: list[Any] = []

    def call(_: object, method: str, message: Query) -> Any:
        box.append((method, message.workload))
        return box[0]

    monkeypatch.setattr("lateen.cli.status.call_control", call)
    monkeypatch.setattr("lateen.cli.proxy_status.call_control", call)
    monkeypatch.setattr("lateen.cli.metrics.call_control", call)
    return box


def test_a_mesh_that_is_well(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer.append(make_report())
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "running" in shown
    assert "12 resources, 4 services, 1 proxies connected" in shown
    row = next(line for line in shown.splitlines() if line.startswith("reviews-v3"))
    assert row.split("  ") == [
        "reviews-v3",
        "4242",
        "10.77.0.5",
        "ready",
        "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
        "23h0m",
    ]
    assert "no configuration errors" in shown


def test_errors_are_shown_with_their_place_and_end_with_1(
    answer: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    error = ProblemInfo(file="mesh/a.yaml", line=7, field="spec.hosts", message="must not be empty")
    warning = ProblemInfo(file="", line=0, field="", message="stored only", level="warning")
    answer.append(make_report(errors=(error,), warnings=(warning,)))
    assert main(["status"]) == 1
    shown = capsys.readouterr().out
    assert "ERRORS\n  mesh/a.yaml:7: spec.hosts: must not be empty\n" in shown
    assert "WARNINGS\n  stored only\n" in shown
    assert "no configuration errors" not in shown


def test_warnings_alone_end_with_0(answer: list[Any]) -> None:
    answer.append(make_report(warnings=(ProblemInfo(file="", line=0, field="", message="x", level="warning"),)))
    assert main(["status"]) == 0


def test_a_mesh_without_workloads_says_how_to_start_one(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer.append(make_report(workloads=()))
    assert main(["status"]) == 0
    assert "lateen run --service NAME" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        pytest.param({"ready": False}, "not ready", id="not-ready"),
        pytest.param({"connected": False}, "ready, proxy not connected", id="not-connected"),
        pytest.param(
            {"certificate": CertificateInfo(serial="a", not_before=_in(-timedelta(2)), not_after=_in(-timedelta(1)))},
            "EXPIRED",
            id="expired",
        ),
    ],
)
def test_what_is_wrong_with_a_workload(
    answer: list[Any], capsys: pytest.CaptureFixture[str], fields: dict[str, Any], text: str
) -> None:
    answer.append(make_report(workloads=(make_workload(**fields),)))
    main(["status"])
    assert text in capsys.readouterr().out


def test_status_as_json_has_the_names_that_programs_read(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    error = ProblemInfo(file="mesh/a.yaml", line=7, field="spec.hosts", message="must not be empty")
    answer.append(make_report(errors=(error,)))
    assert main(["status", "reviews-v3", "-o", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert answer[1:] == [("Status", "reviews-v3")]
    assert report["controlPlane"]["pid"] == 4000
    workload = report["workloads"][0]
    assert (workload["name"], workload["pid"], workload["ip"]) == ("reviews-v3", 4242, "10.77.0.5")
    assert workload["identity"].startswith("spiffe://")
    assert workload["certificate"]["notAfter"]
    assert {key: report["errors"][0][key] for key in ("file", "line", "field", "message")} == {
        "file": "mesh/a.yaml",
        "line": 7,
        "field": "spec.hosts",
        "message": "must not be empty",
    }


def test_proxies_that_took_everything(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer.append(ProxyReport(proxies=(make_proxy(CDS=TypeInfo(state="SYNCED", resources=3, version="v")),)))
    assert main(["proxy-status"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        "reviews-v3",
        "default",
        "SYNCED",
        *["-"] * 4,
        "1.40.0",
        "2026-11-24T01:02:03Z",
    ]


def test_a_refusal_is_shown_in_envoys_words_and_ends_with_1(
    answer: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = TypeInfo(state="ERROR", resources=3, version="v", error="unknown filter", rejected=("l_80",))
    answer.append(ProxyReport(proxies=(make_proxy(LDS=refused),)))
    assert main(["proxy-status", "reviews-v3"]) == 1
    assert "reviews-v3 refuses LDS l_80\n    unknown filter\n" in capsys.readouterr().out
    assert answer[1:] == [("ProxyStatus", "reviews-v3")]


def test_what_is_held_back_is_named_with_its_origin(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    held = QuarantineInfo(
        type="RDS",
        resource="9080",
        proxies=("reviews-v3", "ratings-v1"),
        error="missing ): a(b",
        instead="the last good version stays",
        shaped_by=("VirtualService default/reviews (mesh/reviews.yaml:4)",),
    )
    synced = make_proxy(RDS=TypeInfo(state="SYNCED", resources=3, version="v"))
    other = msgspec.structs.replace(held, proxies=("details-v1", "reviews-v3"))  # of another scope
    answer.append(ProxyReport(proxies=(synced,), quarantined=(held, other)))
    assert main(["proxy-status"]) == 1
    assert capsys.readouterr().out.endswith(
        "\nheld back RDS 9080 (for reviews-v3, ratings-v1, details-v1): the last good version stays\n"
        "    missing ): a(b\n"
        "    shaped by VirtualService default/reviews (mesh/reviews.yaml:4)\n"
    )


def test_metrics_without_a_workload_are_the_control_planes(
    answer: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answer.append(MetricsReport(text="pilot_xds 2\n"))
    assert main(["metrics"]) == 0
    assert capsys.readouterr().out == "pilot_xds 2\n"
    assert answer[1:] == [("Metrics", "")]


def test_no_proxies(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer.append(ProxyReport(proxies=()))
    assert main(["proxy-status"]) == 0
    assert capsys.readouterr().out == "no proxy is connected\n"


def test_a_name_that_nobody_has_is_an_error(answer: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer.append(ProxyReport(proxies=()))
    assert main(["proxy-status", "nope"]) == 1
    answer[:] = [make_report(workloads=())]
    assert main(["status", "nope"]) == 1
    assert capsys.readouterr() == (
        "",
        "lateen proxy-status: no proxy 'nope' is connected; lateen proxy-status names those that are\n"
        "lateen status: no workload 'nope' runs; lateen status names those that do\n",
    )


def test_patches_are_shown_where_they_do_nothing_and_all_of_one_proxy(
    answer: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {"filter": "default/mine", "apply_to": "CLUSTER"}
    patches = (
        PatchInfo(**fields, index=0, place="f.yaml:7", resources={"CDS": 6, "LDS": 1}),
        PatchInfo(**fields, index=1, place="f.yaml:9"),
        PatchInfo(**fields, index=2, place="f.yaml:11", note="applied"),
        PatchInfo(**fields, index=3, place="f.yaml:13", note="left out: why"),
    )
    one = msgspec.structs.replace(make_proxy(), patches=patches)
    answer.append(ProxyReport(proxies=(one,)))
    assert main(["proxy-status", "reviews-v3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[-4:]] == [f"default/mine[{index}]" for index in range(4)]
    assert "6 CDS, 1 LDS" in lines[-4]
    assert lines[-3].split() == ["default/mine[1]", "CLUSTER", "matches", "nothing", "f.yaml:9"]
    answer[:] = [ProxyReport(proxies=(one, make_proxy()))]
    assert main(["proxy-status"]) == 0
    out = capsys.readouterr().out
    assert "default/mine[0]" not in out
    assert "default/mine[2]" not in out
    assert "reviews-v3: patches of EnvoyFilters that do not act\n" in out
    assert "matches nothing" in out
    assert "left out: why" in out
