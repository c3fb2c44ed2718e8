"""Loopback addresses for workloads without namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lateen.errors import Unavailable
from lateen.net.explicit import allocate, free_port, release
from lateen.net.process import start_ticks
from lateen.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Any other process that stands."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_every_workload_has_an_address_of_its_own(settings: Settings) -> None:
    given = [allocate(settings, f"reviews-v{number}") for number in range(50)]
    assert len(set(given)) == 50
    assert all(address in IPv4Network("127.77.0.0/16") for address in given)


def test_asking_again_changes_nothing(settings: Settings) -> None:
    assert allocate(settings, "a") == allocate(settings, "a")


def test_a_name_gets_the_same_address_after_a_restart(settings: Settings) -> None:
    before = allocate(settings, "a")
    release(settings, "a")
    assert list(settings.run.glob("*.json")) == []
    assert allocate(settings, "a") == before


def test_a_name_belongs_to_the_process_that_runs(settings: Settings, other: subprocess.Popen[bytes]) -> None:
    taken = allocate(settings, "a", other.pid)
    with pytest.raises(Unavailable, match=f"workload 'a' is held by process {other.pid}"):
        allocate(settings, "a")
    release(settings, "a")  # not ours: nothing happens
    with pytest.raises(Unavailable):
        allocate(settings, "a")
    other.kill()
    other.wait()
    assert allocate(settings, "a") == taken


def test_nobody_holds_an_address_for_a_process_that_is_not_there(settings: Settings) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(Unavailable, match=f"no process {process.pid}"):
        allocate(settings, "a", process.pid)


def test_a_damaged_file_only_forgets(settings: Settings) -> None:
    before = allocate(settings, "a")
    (settings.run / "explicit.json").write_text("{")
    assert allocate(settings, "a") == before


def test_many_at_once(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(lambda number: allocate(settings, f"w{number}"), range(40)))
    assert len(set(given)) == 40


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.77.0.2", free_port("127.77.0.2"))) as listener:
        assert listener.getsockname()[0] == "127.77.0.2"


def test_when_a_process_started(other: subprocess.Popen[bytes]) -> None:
    ticks = start_ticks(other.pid)
    assert ticks is not None
    own = start_ticks(os.getpid())
    assert own is not None
    assert ticks >= own
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(other.pid) is None  # a zombie is nobody
