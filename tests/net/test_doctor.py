"""What the machine can do, as told: on this machine, and where somebody forbade it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lateen.net.client import ensure_holder
from lateen.net.doctor import BestMode, Check, best_mode, checks, find_envoy
from lateen.settings import Settings

NAMES = (
    "python",
    "protobuf",
    "envoy",
    "namespaces",
    "capture",
    "supervision",
    "mode",
    "state folder",
    "resolver",
    "way out",
)

# A user namespace in which the kernel allows no further namespaces: as on a machine whose administrator forbade them.
FORBIDDEN = """
import dataclasses, json, os, sys
from pathlib import Path
from lateen.errors import Unsupported
from lateen.net import kernel
from lateen.net.client import ensure_holder
from lateen.net.doctor import best_mode, checks
from lateen.settings import Settings

uid, gid = os.geteuid(), os.getegid()
kernel.unshare(kernel.CLONE_NEWUSER)
kernel.map_user(0, 0, uid, gid)
for limit in ("max_user_namespaces", "max_net_namespaces"):
    Path("/proc/sys/user", limit).write_text("0")
settings = Settings(state=Path(sys.argv[1]))
try:
    ensure_holder(settings)
except Unsupported as error:
    refusal = str(error)
mode = dataclasses.asdict(best_mode())
print(json.dumps([mode, [dataclasses.asdict(check) for check in checks(settings)], refusal]))
"""


@pytest.mark.netns
@pytest.mark.envoy
def test_a_machine_that_can(settings: Settings) -> None:
    begin = time.perf_counter()
    found = checks(settings)
    took = time.perf_counter() - begin
    assert tuple(check.name for check in found) == NAMES
    bad = [check for check in found if check.ok is False]
    assert bad == []
    assert all(check.detail for check in found)
    assert all(check.remedy == "" for check in found if check.ok)
    assert took < 5.0  # 0.15 on a quiet machine


@pytest.mark.netns
def test_the_best_mode_is_what_the_holder_does(settings: Settings) -> None:
    with ensure_holder(settings, outside=False) as lease:
        assert best_mode().mode == lease.mode


@pytest.mark.netns
@pytest.mark.envoy
def test_a_machine_where_namespaces_are_forbidden(settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(settings.state)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    mode, found, refusal = json.loads(done.stdout)
    by_name = {check["name"]: Check(**check) for check in found}
    assert BestMode(**mode).mode == "explicit"
    assert "No space left on device" in mode["reason"]  # user_namespaces(7): how the kernel tells of the limit
    assert by_name["namespaces"].ok is False
    assert "user.max_net_namespaces forbids it" in by_name["namespaces"].detail
    assert "sysctl user.max_net_namespaces=15000" in by_name["namespaces"].remedy
    assert "explicit mode" in by_name["namespaces"].remedy
    assert by_name["capture"].ok is None
    assert by_name["mode"].ok is None
    assert by_name["envoy"].ok is True
    assert "network holder cannot start: network namespace: No space left on device" in refusal


def test_envoy_is_found() -> None:
    envoy = find_envoy()
    assert envoy is not None
    assert envoy.name == "envoy"
    assert envoy.is_file()


@pytest.mark.netns
@pytest.mark.envoy
def test_a_state_folder_that_cannot_be_written() -> None:
    found = {check.name: check for check in checks(Settings(state=Path("/etc/passwd/lateen")))}
    assert found["state folder"].ok is False
    assert "/etc/passwd is not writable" in found["state folder"].detail
