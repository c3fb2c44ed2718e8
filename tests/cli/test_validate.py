"""`lateen validate`: the control plane's own words, without a control plane."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lateen.cli import main

GOOD = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http: [{route: [{destination: {host: web}}]}]
"""
WRONG = GOOD.replace("{host: web}", "{host: web, subst: v1}")


def validate(*arguments: str) -> int:
    return main(["validate", *arguments])


def test_what_is_right_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("not: read")
    assert validate("-f", str(tmp_path)) == 0
    assert capsys.readouterr().out == "valid: 2 resources in 1 file, 0 warnings\n"


def test_a_fault_has_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "web.conf"  # a file that is named is read, whatever it is called
    path.write_text(WRONG)
    assert validate("-f", str(path)) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == (
        f"{path}:12: error: spec.http[0].route[0].destination.subst: "
        "is not a field of Destination, did you mean subset?"
    )
    assert last == "not valid: 1 error, 0 warnings; 0 resources in 1 file would be in force"


def test_two_files_with_one_name_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD.partition("---")[0])
    assert validate("-f", str(tmp_path / "b.yaml"), "-f", str(tmp_path / "a.yaml")) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path}/b.yaml:4: error: metadata.name: Service default/web is defined at {tmp_path}/a.yaml:2" in out


def test_names_that_nothing_defines_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD.replace("{host: web}", "{host: web, subset: v9}").replace(
        "hosts: [web]", "hosts: [web], gateways: [edge]"
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.replace("[web], g", "[web]\n  g").encode())))
    assert validate("-f", "-", "-o", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["valid"], report["files"], report["resources"], report["errors"]) == (True, 1, 2, [])
    assert [(one["file"], one["resource"], one["message"]) for one in report["warnings"]] == [
        ("<stdin>", "VirtualService default/web", message)
        for message in (
            "there is no Gateway default/edge",
            "no DestinationRule for web.default.svc.cluster.local has a subset v9; requests to it get 503",
        )
    ]


def test_a_path_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate("-f", "/nonexistent.yaml") == 1
    assert "neither a file nor a folder" in capsys.readouterr().err


@pytest.mark.envoy
def test_a_real_envoy_has_its_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(GOOD.replace("[{route", "[{match: [{uri: {regex: 'a.c'}}], route"))
    assert validate("--taste", "-f", str(path)) == 0
    capsys.readouterr()
    # Checks look into regular expressions as Envoy does: with them away, Envoy is the one that refuses.
    monkeypatch.setattr("lateen.api.check_http_route.check_regex", lambda *_: iter(()))
    path.write_text(path.read_text().replace("a.c", "a(b"))
    assert validate("-f", str(path)) == 0
    capsys.readouterr()
    assert validate("--taste", "-f", str(path)) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}:7: error: envoy would refuse RDS 80: ")
    assert "missing ): a(b" in first
