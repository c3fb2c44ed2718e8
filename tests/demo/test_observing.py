"""What `lateen demo --observe` decides: ports that are free, words for what is there and for what is not."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from lateen.demo import observing
from lateen.demo.observing import Observing
from lateen.settings import Settings


def lateen(command: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "lateen", command, *words)


def test_without_a_prometheus_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = Observing(Settings(state=tmp_path), "auto", lateen)
    assert found.prometheus(tmp_path / "log") is None
    text = "\n".join(found.words())
    assert "no Prometheus on the PATH (Debian: apt-get install prometheus)" in text
    assert "prometheus-config --metrics 127.0.0.1:" in text


def test_a_prometheus_is_told_where_the_mesh_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prometheus").mkdir(mode=0o755)
    program = tmp_path / "bin" / "prometheus"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(observing, "METRICS_PORT", port)
        found = Observing(Settings(state=tmp_path), "auto", lateen)
        command = found.prometheus(tmp_path / "log")
    assert command is not None
    assert command.argv[0] == str(program)
    address = found.control_plane_words[1]
    assert address != f"127.0.0.1:{port}"
    config = (tmp_path / "prometheus" / "prometheus.yml").read_text()
    assert f"http://{address}/sd" in config
    assert "scrape_interval: 5000ms" in config
    assert any("--web.listen-address=127.0.0.1:" in word for word in command.argv)
