"""A way out of the mesh for workloads, where `pasta` (Debian's package `passt`) is installed. Without it, or without
/dev/net/tun, addresses outside of the mesh are refused at once.

pasta moves packets between a device in the mesh's namespace and plain sockets of the host, so neither root nor a change
to the host's own network is needed. It must start from the host's namespaces: hence the process made before they are
left, which waits for its word.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lateen.net import kernel

__all__ = ["LINK", "NoPasta", "Pasta", "find_pasta", "prepare", "start"]

LINK = "outside"
READY_SECONDS = 2.0  # it takes 30 ms
_POLL_SECONDS = 0.005
_TUN = "/dev/net/tun"


@dataclass(frozen=True, slots=True)
class Pasta:
    """The process that is, or will be, pasta, and the pipe on which it waits for its word."""

    pid: int
    word: int


class NoPasta(NamedTuple):
    """Why there is no way out, and what to do about it."""

    reason: str
    remedy: str


def find_pasta() -> str | NoPasta:
    """Return pasta's path, or what is missing."""
    path = shutil.which("pasta")
    if path is None:
        return NoPasta("pasta is not installed", "install it (Debian: apt install passt)")
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return NoPasta(f"{_TUN} is missing or not open to this user", f"as root: modprobe tun; chmod 666 {_TUN}")
    return path


def prepare(mount_point: Path) -> Pasta | None:
    """Make the process that becomes pasta; call it before namespaces are left. None where there is no pasta.

    `mount_point` is any file, over which pasta, with root, sees the mesh's namespace: it gives up the right to look it
    up below /proc before it does so.
    """
    path = find_pasta()
    if isinstance(path, NoPasta):
        return None
    parent = os.getpid()
    waiting, word = os.pipe()
    pid = os.fork()
    if pid:
        os.close(waiting)
        return Pasta(pid, word)
    try:
        os.close(word)
        if os.read(waiting, 1):
            _become_pasta(path, parent, mount_point)
    finally:
        os._exit(1)


def start(pasta: Pasta) -> bool:
    """Let pasta begin and return whether its link is there, in this process's namespace now, and up."""
    os.write(pasta.word, b"1")
    os.close(pasta.word)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(pasta.pid, os.WNOHANG)[0]:
            return False
        if any(name == LINK for _, name in socket.if_nameindex()) and _has_route():
            return True
        time.sleep(_POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pasta.pid, signal.SIGKILL)
    os.waitpid(pasta.pid, 0)
    return False


def _has_route() -> bool:
    with open("/proc/self/net/route") as file:
        return any(line.split()[:2] == [LINK, "00000000"] for line in file)


def _become_pasta(path: str, holder: int, mount_point: Path) -> None:
    netns, user = f"/proc/{holder}/ns/net", ["--userns", f"/proc/{holder}/ns/user"]
    if os.stat(f"/proc/{holder}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", kernel.MS_REC | kernel.MS_SLAVE)
        kernel.mount(netns, str(mount_point), kernel.MS_BIND)
        netns, user = str(mount_point), ["--netns-only", "--runas", "0"]
    # No port is forwarded in either direction, and the host's own loopback cannot be reached by way of its router.
    quiet = ["--foreground", "--quiet", "--ipv4-only", "--config-net", "--no-map-gw", "--ns-ifname", LINK]
    closed = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    # The interpreter ignores it, and pasta takes a signal that is ignored for one that it could not set up.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if kernel.die_with_parent(signal.SIGKILL, holder):
        os.execv(path, [path, *quiet, *closed, *user, "--netns", netns])  # noqa: S606
