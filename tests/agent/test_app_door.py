"""Who reaches the Workload API of a workload: its own processes, told apart by the kernel's word."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from tests.agent.conftest import MemoryLog

from lateen.agent.app_door import AppDoor, WorkloadProcesses
from lateen.errors import Refused
from lateen.wire.doors import HiddenPort

# Connects, and tells whether it is let in: a server of HTTP/2 speaks first.
CALL = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(bool(s.recv(1)), flush=True)"
# What is read from its input is run as another process, whose output is its own.
APP = "import subprocess,sys\nfor line in sys.stdin: subprocess.run(line, shell=True)\n"


async def _answer(data: bytes, _: object) -> bytes:
    return data


HANDLER = grpc.method_handlers_generic_handler("s", {"m": grpc.unary_unary_rpc_method_handler(_answer)})


@asynccontextmanager
async def door(folder: Path, log: MemoryLog, app: int, network: int | None = None) -> AsyncIterator[Path]:
    path = folder / "svid.sock"
    made = AppDoor(path, HANDLER, log, folder=folder)

    async def running() -> int:
        return app

    await made.start(app_pid=running, network=network)
    assert made.address == f"unix://{path}"
    try:
        yield path
    finally:
        await made.stop()
        assert not path.exists()


async def ask(path: Path, *, of: subprocess.Popen[bytes] | None = None) -> str:
    """Return what a process says that connects: a child of `of`, else one of this process."""
    command = [sys.executable, "-c", CALL, str(path)]
    if of is None:
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await child.communicate()
        return out.decode().strip()
    assert of.stdin is not None
    assert of.stdout is not None
    of.stdin.write(f"{sys.executable} -c '{CALL}' {path}\n".encode())
    of.stdin.flush()
    return (await asyncio.to_thread(of.stdout.readline)).decode().strip()


@asynccontextmanager
async def application(argv: tuple[str, ...] = (sys.executable, "-c", APP)) -> AsyncIterator[subprocess.Popen[bytes]]:
    app = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield app
    finally:
        assert app.stdin is not None
        assert app.stdout is not None
        app.stdin.close()
        app.stdout.close()
        app.kill()
        app.wait()


async def test_what_the_application_started_is_let_in_and_others_are_not(tmp_path: Path, log: MemoryLog) -> None:
    async with application() as app, application() as other, door(tmp_path, log, app.pid) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert await ask(path, of=app) == "True"
        assert await ask(path, of=other) == "False"  # another workload's, of the same user
        assert await ask(path) == "False"  # the agent's parent would be of this kind
    (first, second) = log.said("workload api connection refused")
    assert "is not of this workload" in first
    assert "is not of this workload" in second


async def test_in_a_network_of_its_own_whoever_is_inside_is_let_in(tmp_path: Path, log: MemoryLog) -> None:
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        async with application() as app, door(tmp_path, log, 0, descriptor) as path:
            assert await ask(path) == "True"  # in this network, though nobody's child
            assert await ask(path, of=app) == "True"
    finally:
        os.close(descriptor)


async def test_from_another_network_nobody_is(tmp_path: Path, log: MemoryLog) -> None:
    alone = ("unshare", "--net", sys.executable, "-c", APP)
    if os.geteuid() != 0:
        alone = ("unshare", "--user", "--map-root-user", *alone[1:])
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        async with application(alone) as app, door(tmp_path, log, app.pid, descriptor) as path:
            assert app.stdin is not None
            said = await asyncio.wait_for(ask(path, of=app), 10)
            if not said:
                pytest.skip("no namespaces on this machine")
            assert said == "False"
    finally:
        os.close(descriptor)


async def test_an_application_that_asks_before_the_agent_knows_of_it_waits(tmp_path: Path, log: MemoryLog) -> None:
    known = asyncio.Event()
    made = AppDoor(tmp_path / "svid.sock", HANDLER, log, folder=tmp_path)
    async with application() as app:

        async def running() -> int:
            await known.wait()
            return app.pid

        await made.start(app_pid=running, network=None)
        try:
            asking = asyncio.create_task(ask(tmp_path / "svid.sock", of=app))
            done, _ = await asyncio.wait({asking}, timeout=0.3)
            assert not done
            known.set()
            assert await asking == "True"
        finally:
            await made.stop()


async def test_a_process_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = HiddenPort(grpc.aio.server(), tmp_path)
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    monkeypatch.setattr("lateen.agent.app_door.peer_process", lambda _: (os.getpid(), os.geteuid() + 1))

    async def running() -> int:
        return os.getpid()

    with one, two, pytest.raises(Refused, match="of user"):
        await WorkloadProcesses(port, app_pid=running, network=None)(one)
    port.close()
