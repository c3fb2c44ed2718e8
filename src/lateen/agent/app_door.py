"""The socket of the Workload API, and who may connect: processes of this workload's application, and no others.

The kernel says who called connect(2). In a network of its own, a workload's processes are those in it. In explicit mode
they are the application, what it started, and what is in its session; a daemon that left both is not recognised.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc.aio

from lateen.agent.log import Log
from lateen.errors import Refused
from lateen.wire.doors import Admitted, Door, HiddenPort, listen_local, peer_process

__all__ = ["AppDoor", "WorkloadProcesses"]

CONNECTIONS: Final = 64
ANCESTORS: Final = 64  # that are asked for
STOP_SECONDS: Final = 1.0
MAX_MESSAGE_BYTES: Final = 64 << 10


class WorkloadProcesses:
    """Admits the connections of one workload's processes."""

    def __init__(self, port: HiddenPort, *, app_pid: Callable[[], Awaitable[int]], network: int | None) -> None:
        """`app_pid` waits until the application runs; `network` is a descriptor of the workload's own, if any."""
        self._port = port
        self._app_pid = app_pid
        self._network = None if network is None else os.fstat(network).st_ino

    async def __call__(self, sock: socket.socket) -> Admitted:
        pid, uid = peer_process(sock)
        if uid != os.geteuid():
            raise Refused(f"process {pid} of user {uid}; only this workload's own may ask for its identity")
        try:
            # It may ask before the agent knows that it runs.
            belongs = self._is_inside(pid) if self._network is not None else _is_of(pid, await self._app_pid())
        except OSError as error:
            raise Refused(f"process {pid} cannot be looked at: {error.strerror}") from error
        if not belongs:
            raise Refused(f"process {pid} is not of this workload; it may not ask for its identity")
        return Admitted(self._port, f"uid={uid},pid={pid}")

    def _is_inside(self, pid: int) -> bool:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == self._network


class AppDoor:
    """A gRPC server behind a socket that only the application reaches. `start` it before the application."""

    def __init__(self, path: Path, handler: Any, log: Log, *, folder: Path) -> None:
        """`folder` holds another socket's name for a moment: one with a short path, since `path` may be long."""
        self._path = path
        self._folder = folder
        self._handler = handler
        self._log = log
        self._server: Any = None
        self._port: HiddenPort | None = None
        self._door: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """What `SPIFFE_ENDPOINT_SOCKET` is to say."""
        return f"unix://{self._path}"

    async def start(self, *, app_pid: Callable[[], Awaitable[int]], network: int | None) -> None:
        """Listen. Raises `OSError`."""
        server = grpc.aio.server(options=(("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),))
        server.add_generic_rpc_handlers((self._handler,))
        self._port = HiddenPort(server, self._folder)
        await server.start()
        self._server = server
        admission = WorkloadProcesses(self._port, app_pid=app_pid, network=network)
        door = Door(
            listen_local(self._path),
            admission,
            on_refused=lambda reason: self._log.warning("workload api connection refused", reason=reason),
            connections=CONNECTIONS,
            log=self._log,
        )
        self._door = asyncio.create_task(door.run(), name="door of the workload api")

    async def stop(self) -> None:
        """Let nobody in any more, and end what is open. What serves must have ended its streams."""
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        if self._door is not None:
            self._door.cancel()
            await asyncio.gather(self._door, return_exceptions=True)
        if self._port is not None:
            self._port.close()
        self._path.unlink(missing_ok=True)


def _is_of(pid: int, app: int) -> bool:
    """Tell whether a process is `app`, of its session, or started by it, however far down."""
    for _ in range(ANCESTORS):
        parent, session = _parent_and_session(pid)
        if app in (pid, session):
            return True
        if parent <= 1:
            return False
        pid = parent
    return False


def _parent_and_session(pid: int) -> tuple[int, int]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    # proc(5), fields 4 and 6. The command's name is in parentheses and may hold anything, also parentheses.
    fields = stat[stat.rfind(b")") + 2 :].split()
    return int(fields[1]), int(fields[3])
