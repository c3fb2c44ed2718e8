"""Doors before gRPC servers: who is let in, what the server sees of them, what is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lateen.errors import Refused
from lateen.wire.doors import Admitted, Door, HiddenPort, LocalUsers, listen_local, local_door
from lateen.wire.peer import peer_text

ECHO = "/t/echo"
NOBODY = 65534


class Echo:
    """A server that says what it was told, and notes who told it."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(self._echo)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", {"echo": method}),))

    async def _echo(self, data: bytes, context: Any) -> bytes:
        self.peers.append(peer_text(context))
        return data


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    served = Echo()
    yield served
    await served.server.stop(None)


@pytest.fixture
def folder() -> Any:
    path = tempfile.mkdtemp(prefix="lt-door-", dir="/tmp")
    yield Path(path)
    shutil.rmtree(path)


async def ask(path: Path, data: bytes = b"x", seconds: float = 10) -> bytes:
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        answer: bytes = await channel.unary_unary(ECHO)(data, timeout=seconds)
        return answer


async def test_its_own_user_is_let_in_and_named(echo: Echo, folder: Path) -> None:
    refused: list[str] = []
    async with local_door(echo.server, folder / "x.sock", refused.append) as door:
        await echo.server.start()
        assert [path.name for path in folder.iterdir()] == ["x.sock"]
        assert (folder / "x.sock").stat().st_mode & 0o777 == 0o600
        large = os.urandom(3_000_000)
        assert await ask(folder / "x.sock", large) == large
        assert await ask(folder / "x.sock") == b"x"
        assert echo.peers == [f"uid={os.geteuid()},pid={os.getpid()}"] * 2
        assert (door.admitted, refused) == (2, [])
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(folder / "x.sock")


async def test_assurance_11_another_user_is_turned_away_whatever_the_modes_say(echo: Echo, folder: Path) -> None:
    """As root: a process of another uid that can reach the socket. Else: a door for others, and this one comes."""
    path = folder / "x.sock"
    refused: list[str] = []
    port = HiddenPort(echo.server, folder)
    stranger = NOBODY if os.geteuid() == 0 else os.geteuid()
    users = {0} if os.geteuid() == 0 else {0, os.geteuid() + 1}
    door = Door(listen_local(path), LocalUsers(port, str(path), users), on_refused=refused.append)
    await echo.server.start()
    running = asyncio.create_task(door.run())
    folder.chmod(0o777)
    path.chmod(0o777)
    try:
        code = (
            "import socket, sys\n"
            "sock = socket.socket(socket.AF_UNIX)\n"
            "sock.connect(sys.argv[1])\n"
            "sock.settimeout(10)\n"
            "try:\n"
            "    sock.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes(9))\n"
            "    print(len(sock.recv(100)))\n"
            "except (BrokenPipeError, ConnectionResetError):\n"
            "    print(0)\n"
        )
        command = [sys.executable, "-S", "-c", code, str(path)]
        if os.geteuid() == 0:
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *_plain_python(command)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env={"PATH": os.defpath}
        )
        out, err = await asyncio.wait_for(process.communicate(), 20)
        assert out.strip() == b"0", err
        assert door.admitted == 0
        assert echo.peers == []
        (reason,) = refused
        assert reason.startswith(f"{path}: connection of user {stranger}, process {process.pid}; only user")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        port.close()


def _plain_python(command: list[str]) -> list[str]:
    """Return the command with an interpreter that any user may run."""
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if system is None:
        pytest.skip("no interpreter that another user may run")
    return [system, *command[1:]]


async def test_what_waits_behind_the_door_has_no_name(echo: Echo, folder: Path) -> None:
    """Nobody else finds the server's own socket: not in the folder, and not by a name that the kernel lists."""
    async with local_door(echo.server, folder / "x.sock", lambda _: None):
        await echo.server.start()
        assert await ask(folder / "x.sock") == b"x"
        listening = [
            line.split()[7]
            for line in Path("/proc/net/unix").read_text().splitlines()[1:]
            if len(line.split()) == 8 and str(folder) in line and line.split()[3] == "00010000"
        ]
        assert str(folder / "x.sock") in listening
        hidden = [path for path in listening if path != str(folder / "x.sock")]
        for path in hidden:
            with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)


async def test_names_of_its_ends_cannot_be_known_before(echo: Echo, folder: Path) -> None:
    """Anybody may bind any abstract name. Who saw some must not be able to take the next ones, and lock others out."""
    path = folder / "a.sock"
    mine = f"/uid={os.geteuid()},pid={os.getpid()}"
    async with local_door(echo.server, path, print):
        await echo.server.start()
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                channel = grpc.aio.insecure_channel(f"unix:{path}", options=options)
                await stack.enter_async_context(channel)
                assert await channel.unary_unary(ECHO)(b"x", timeout=10) == b"x"
            ends = [name for name in abstract_names() if name.startswith("@lateen-door/") and name.endswith(mine)]
    drawn = [name.removeprefix("@lateen-door/").removesuffix(mine) for name in ends]
    assert len(set(drawn)) == len({part[:8] for part in drawn}) == 3  # nothing in common but what is known of the peer
    assert all(len(part) == 16 for part in drawn)


def abstract_names() -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return [words[7] for line in lines if len(words := line.split(maxsplit=7)) > 7 and words[7].startswith("@")]


async def test_more_than_it_holds_are_closed_and_come_in_later(echo: Echo, folder: Path) -> None:
    path = folder / "x.sock"
    port = HiddenPort(echo.server, folder)
    admit = LocalUsers(port, str(path), {os.geteuid()})
    door = Door(listen_local(path), admit, on_refused=lambda _: None, connections=2)
    await echo.server.start()
    running = asyncio.create_task(door.run())
    try:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(str(path))
                await _until(lambda: door.admitted)
            await _until(lambda: door.open == 2)
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(path, seconds=2)
            assert door.refused >= 1
        await _until(lambda: door.open == 0)
        assert await ask(path) == b"x"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        port.close()


async def test_one_process_does_not_take_up_the_door(echo: Echo, folder: Path) -> None:
    path = folder / "x.sock"
    port = HiddenPort(echo.server, folder)
    sources = iter(["greedy"] * 5 + ["other", "greedy"])

    async def admit(_: socket.socket) -> Admitted:
        return Admitted(port, "x", source=next(sources))

    door = Door(listen_local(path), admit, on_refused=lambda _: None, connections_of_one=3)
    await echo.server.start()
    running = asyncio.create_task(door.run())
    try:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(5):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(str(path))
                await _until(lambda number=number: door.admitted + door.refused == number + 1)
            assert (door.admitted, door.refused) == (3, 2)
            assert await ask(path) == b"x", "another is let in"
        await _until(lambda: door.open == 0)
        assert await ask(path) == b"x", "and the first, once it has gone"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        port.close()


async def test_who_says_nothing_in_time_is_closed(echo: Echo, folder: Path) -> None:
    path = folder / "x.sock"

    async def never(_: socket.socket) -> Admitted:
        await asyncio.Event().wait()
        raise Refused("not reached")

    door = Door(listen_local(path), never, on_refused=lambda _: None, admission_seconds=0.05)
    running = asyncio.create_task(door.run())
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await _until(lambda: door.open == 0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_accepts_nothing_blocks_nobody_else(folder: Path) -> None:
    """What waits for a busy server is bounded and ends when its client goes."""
    server = grpc.aio.server()
    path = folder / "x.sock"
    async with local_door(server, path, lambda _: None) as door:  # the server is never started
        socks = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for sock in socks:
            sock.setblocking(False)
            sock.connect(str(path))
        await _until(lambda: door.admitted == 20)
        for sock in socks:
            sock.close()
        await _until(lambda: door.open == 0)
    await server.stop(None)


async def _until(check: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.01)
