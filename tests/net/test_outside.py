"""The way out of the mesh: there where pasta can run, and never left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lateen.net.client import ensure_holder
from lateen.net.outside import LINK, NoPasta, find_pasta
from lateen.settings import Settings

from .conftest import is_gone, until

pytestmark = pytest.mark.netns


def processes_of(settings: Settings, holder: int) -> set[int]:
    """Return the holder's children."""
    return {int(pid) for pid in Path(f"/proc/{holder}/task/{holder}/children").read_text().split()}


def test_outside_is_there_exactly_where_pasta_can_run(settings: Settings) -> None:
    with ensure_holder(settings) as lease:
        assert lease.outside is not isinstance(find_pasta(), NoPasta)
        links = Path(f"/proc/{lease.holder_pid}/net/dev").read_text()
        assert (f"{LINK}:" in links) is lease.outside


def test_outside_can_be_switched_off(settings: Settings) -> None:
    with ensure_holder(settings, outside=False) as lease:
        assert lease.outside is False
        assert processes_of(settings, lease.holder_pid) == set()


async def test_a_killed_holder_takes_pasta_with_it(settings: Settings) -> None:
    with ensure_holder(settings) as lease:
        children = processes_of(settings, lease.holder_pid)
        assert len(children) == int(lease.outside)
        os.kill(lease.holder_pid, signal.SIGKILL)
        await until(lambda: is_gone(lease.holder_pid), "the holder dies")
        await until(lambda: all(is_gone(child) for child in children), "pasta dies")
    (settings.run / "net.sock").unlink()
    (settings.run / "net.lock").unlink()


@pytest.mark.parametrize(
    ("folder", "reason"), [("/nowhere", "pasta is not installed"), ("here", "/dev/net/tun is missing")]
)
def test_why_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, reason: str) -> None:
    pasta = tmp_path / "pasta"
    pasta.write_text("#!/bin/sh\n")
    pasta.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if folder == "here" else folder)
    monkeypatch.setattr("lateen.net.outside._TUN", str(tmp_path / "tun"))
    found = find_pasta()
    assert isinstance(found, NoPasta)
    assert found.reason.startswith(reason.replace("/dev/net/tun", str(tmp_path / "tun")))
    assert found.remedy
