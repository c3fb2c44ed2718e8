"""`lateen logs` on files as agents leave them: one workload, many, following, and none that logs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lateen.cli import main


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path("/tmp") / f"lt-logs-{os.getpid()}"  # sockets' paths are bounded
    folder.symlink_to(tmp_path)
    monkeypatch.setenv("LATEEN_STATE", str(folder))
    for name in ("web-v1", "web-v2", "db"):
        (folder / "w" / name).mkdir(parents=True)
        (folder / "w" / name / "admin.sock").touch()
    yield folder
    folder.unlink()


def moment(second: int, text: str) -> str:
    return f"[2023-11-14T22:13:{second:02}.000Z] {text}\n"


def write(state: Path, name: str, text: str, file: str = "access.log") -> None:
    with open(state / "w" / name / file, "a") as out:
        out.write(text)


def run(capsys: Any, *words: str) -> tuple[int, list[str], str]:
    code = main(["logs", *words])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_one_workload(state: Path, capsys: Any) -> None:
    write(state, "web-v1", "".join(moment(number % 60, str(number)) for number in range(60)))
    code, lines, _ = run(capsys, "web-v1")
    assert (code, len(lines), lines[-1]) == (0, 50, "[2023-11-14T22:13:59.000Z] 59")
    assert [line.split()[-1] for line in run(capsys, "web-v1", "-n", "2")[1]] == ["58", "59"]
    assert len(run(capsys, "web-v1", "-n", "-1")[1]) == 60
    assert run(capsys, "web-v1", "-n", "0")[1] == []
    assert run(capsys, "web-v1", "--since", "5m")[1] == []
    # What was moved away is still the beginning.
    (state / "w" / "web-v1" / "access.log").rename(state / "w" / "web-v1" / "access.log.1")
    write(state, "web-v1", '{"start_time": "2023-11-14T22:14:00.000Z", "path": "/"}\n')
    assert run(capsys, "web-v1", "-n", "2")[1][0].endswith("59")
    assert run(capsys, "web-v1", "-n", "1")[1] == ['{"start_time": "2023-11-14T22:14:00.000Z", "path": "/"}']


def test_several_are_one_log_with_their_names_before(state: Path, capsys: Any) -> None:
    write(state, "web-v1", moment(1, "a") + moment(3, "c"))
    write(state, "web-v2", moment(2, "b"))
    write(state, "db", moment(4, "d"))
    _, lines, _ = run(capsys, "web-*")
    assert [(line.split(" | ")[0], line[-1]) for line in lines] == [("web-v1", "a"), ("web-v2", "b"), ("web-v1", "c")]
    _, lines, _ = run(capsys, "db", "web-v2")
    assert [(line.split(" | ")[0], line[-1]) for line in lines] == [("db    ", "d"), ("web-v2", "b")][::-1]
    assert [line[0] for line in run(capsys, "*", "--no-prefix")[1]] == ["["] * 4


def test_what_envoy_says_itself(state: Path, capsys: Any) -> None:
    write(state, "db", "2023-11-14T22:13:20.1Z\twarning\tx\n", file="envoy.log")
    assert run(capsys, "db", "--envoy") == (0, ["2023-11-14T22:13:20.1Z\twarning\tx"], "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["web"], "no workload 'web' runs on this machine; there are: db, web-v1, web-v2", id="name"),
        pytest.param(["x-*"], "no workload is called as 'x-*'", id="pattern"),
        pytest.param(["db", "-n", "-2"], "--lines must be -1 or more, got -2", id="lines"),
    ],
)
def test_what_is_wrong(state: Path, capsys: Any, words: list[str], told: str) -> None:
    code, lines, err = run(capsys, *words)
    assert (code, lines) == (1, [])
    assert told in err


def test_following(state: Path) -> None:
    write(state, "web-v1", moment(1, "before"))
    command = [sys.executable, "-m", "lateen", "logs", "web-*", "-f", "--state", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "web-v1 | " + moment(1, "before")
            write(state, "web-v2", moment(2, "of another")[:-5])
            write(state, "web-v1", moment(3, "more"))
            assert process.stdout.readline() == "web-v1 | " + moment(3, "more")
            write(state, "web-v2", "ther\n")
            assert process.stdout.readline() == "web-v2 | " + moment(2, "of another")
            # Emptied by its agent, and a workload that starts later.
            (state / "w" / "web-v1" / "access.log").write_text(moment(4, "x"))
            assert process.stdout.readline() == "web-v1 | " + moment(4, "x")
            (state / "w" / "web-v3").mkdir()
            (state / "w" / "web-v3" / "admin.sock").touch()
            write(state, "web-v3", moment(5, "new"))
            assert process.stdout.readline() == "web-v3 | " + moment(5, "new")
        finally:
            process.terminate()
