"""`python -m lateen.net.holder --state DIR`: the process that keeps a mesh's network, one for each state folder.

It returns when its child, detached, answers on `run/net.sock`, or with a message and exit code 1 when it cannot. The
child ends a moment after its last lease. A second holder of the same folder returns at once with 0: one is enough.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lateen.errors import LateenError
from lateen.net import outside
from lateen.net.mesh import Mesh, enter_mesh
from lateen.net.server import Server
from lateen.settings import Settings

__all__ = ["main"]

BACKLOG = 1024
DESCRIPTORS = 65536


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the holder for the folder that `arguments` name; return an exit code."""
    parser = argparse.ArgumentParser(prog="lateen.net.holder", description=__doc__)
    parser.add_argument("--state", required=True, help="the mesh's state folder")
    parser.add_argument("--no-outside", action="store_true", help="give workloads no way out of the mesh")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_env(state=options.state)
    except LateenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(settings.run / "net.lock")
    if lock is None:
        return 0
    return _detach(settings, with_outside=not options.no_outside)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, for as long as any copy of it is open; None when another has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # a holder that was just leaving removed the file that we locked


def _detach(settings: Settings, *, with_outside: bool) -> int:
    """Serve in a child of its own session; return once it is ready, or has told why it cannot be."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        with os.fdopen(ready, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        if said == "ready":
            return 0
        sys.stderr.write(f"{said or 'holder ended before it was ready'}\n")
        return 1
    try:
        os.close(ready)
        os.setsid()
        os.chdir("/")
        _serve(settings, tell, with_outside=with_outside)
    except BaseException as error:
        with contextlib.suppress(OSError):  # told once already that it was ready
            os.write(tell, (str(error) or type(error).__name__).encode())
        if not isinstance(error, LateenError):
            traceback.print_exc()
    finally:
        os._exit(0)
    return 0


def _serve(settings: Settings, tell: int, *, with_outside: bool) -> None:
    _redirect_streams(settings)
    _raise_descriptor_limit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Made before the namespaces are left, though a Unix socket could be found by its path from anywhere.
    temporary = settings.run / f".net.sock.{os.getpid()}"
    lock = settings.run / "net.lock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(str(temporary))
        os.chmod(temporary, 0o600)
        listener.listen(BACKLOG)
        pasta = outside.prepare(lock) if with_outside else None
        mesh = enter_mesh()
        way_out = pasta is not None and _open_way_out(mesh, pasta)
        os.rename(temporary, settings.net_socket)  # in place of what a dead holder left
    except BaseException:
        for path in (temporary, lock):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        raise

    def leave() -> None:
        for path in (settings.net_socket, lock):  # the lock last, and while it is held
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    try:
        asyncio.run(_run(Server(mesh, listener, outside=way_out), leave, tell))
    finally:
        if pasta is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pasta.pid, signal.SIGKILL)
                os.waitpid(pasta.pid, 0)


async def _run(server: Server, leave: Callable[[], None], tell: int) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    os.write(tell, b"ready")
    os.close(tell)
    gc.freeze()  # what was imported stays: no need to look through it again
    await server.run(leave)


def _open_way_out(mesh: Mesh, pasta: outside.Pasta) -> bool:
    if not outside.start(pasta):
        return False
    mesh.masquerade(outside.LINK)
    return True


def _redirect_streams(settings: Settings) -> None:
    """Let go of the terminal; what goes wrong from now on is told in `log/network.log`."""
    log = settings.state / "log"
    log.mkdir(mode=0o700, exist_ok=True)
    to = os.open(log / "network.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)


def _raise_descriptor_limit() -> None:
    """Allow more connections than the usual soft limit of 1024, which is there for select(2)'s sake."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


if __name__ == "__main__":
    sys.exit(main())
