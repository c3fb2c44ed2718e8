"""A mesh network for each test, and for each module of tests that only look at it; both end with nothing left."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes import inside as inside_module

from lateen.errors import Unavailable
from lateen.net.client import Attachment, Lease, connect, ensure_holder
from lateen.net.process import start_ticks
from lateen.net.spawn import Role, spawn
from lateen.settings import Settings

INSIDE = [sys.executable, "-I", "-S", inside_module.__file__]
DEADLINE_SECONDS = 10.0


async def run_inside(attachment: Attachment, *arguments: str, role: Role = "app") -> str:
    """Return what `tests/fakes/inside.py` prints when it runs in a workload."""
    argv = [*INSIDE, *arguments]
    process = await spawn(argv, attachment=attachment, env={}, role=role, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def start_inside(attachment: Attachment, *arguments: str, role: Role = "app") -> Process:
    """Return a server of `tests/fakes/inside.py` once it listens."""
    argv = [*INSIDE, *arguments]
    process = await spawn(argv, attachment=attachment, env={}, role=role, stdout=subprocess.PIPE)
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    return process


async def stop(process: Process) -> None:
    process.kill()
    await process.communicate()


async def until(holds: Callable[[], bool], what: str) -> None:
    """Return once `holds()`; fail after a deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110  # the kernel's state; it has no event for this
            await asyncio.sleep(0.005)
    assert holds(), what


def is_gone(pid: int) -> bool:
    return start_ticks(pid) is None


def make_settings() -> Settings:
    return Settings(state=Path(tempfile.mkdtemp(prefix="lt-")))


def check_nothing_left(settings: Settings) -> None:
    """Stop the holder if one runs, and see that it left neither process nor file; remove the folder in any case."""
    try:
        _check_nothing_left(settings)
    finally:
        shutil.rmtree(settings.state)


def _check_nothing_left(settings: Settings) -> None:
    try:
        lease = connect(settings)
    except Unavailable:
        pass
    else:
        lease.close_and_stop()
    left = sorted(path.name for path in settings.run.iterdir()) if settings.run.exists() else []
    assert [name for name in left if name.startswith((".net", "net"))] == []
    mine = str(settings.state).encode()
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            line = Path("/proc", entry, "cmdline").read_bytes()
        except OSError:
            continue
        ours = b"lateen.net.holder" in line or b"pasta" in line
        assert not (ours and mine in line and not is_gone(int(entry))), line
    log = settings.state / "log/network.log"
    assert not log.exists() or log.read_text() == ""


@pytest.fixture
def settings() -> Iterator[Settings]:
    settings = make_settings()
    yield settings
    check_nothing_left(settings)


@pytest.fixture
def lease(settings: Settings) -> Iterator[Lease]:
    with ensure_holder(settings, outside=False) as lease:
        yield lease


@pytest.fixture(scope="module")
def shared_settings() -> Iterator[Settings]:
    """A mesh network for a whole module: `connect` to it for a lease."""
    settings = make_settings()
    with ensure_holder(settings, outside=False):
        yield settings
    check_nothing_left(settings)


@pytest.fixture
def shared_lease(shared_settings: Settings) -> Iterator[Lease]:
    """A lease of one test on the network of its module."""
    with connect(shared_settings) as lease:
        yield lease
