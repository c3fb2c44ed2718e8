"""Reach the network holder of a mesh, start it when it is absent, and hold a lease on parts of the mesh network.

Every call here blocks, for a few milliseconds when all is well and never longer than its deadline.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

import msgspec

from lateen.errors import LateenError, Unavailable, Unsupported
from lateen.net import protocol
from lateen.net.capture import Capture, check_capture
from lateen.settings import Settings

__all__ = ["Attachment", "Lease", "Mode", "connect", "ensure_holder"]

Mode = Literal["root", "rootless"]

REQUEST_SECONDS = 10.0  # an attach takes milliseconds; this only ends the wait for a holder that hangs
START_SECONDS = 10.0
_RETRY_SECONDS = 0.02

_Reply = TypeVar("_Reply", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """The network of one workload. It stands until its lease ends; the descriptors belong to the receiver."""

    name: str
    ip: str
    prefix_len: int
    gateway: str
    netns_fd: int
    userns_fd: int | None  # None with root: no user namespace is entered
    sockets: Mapping[str, socket.socket] = field(repr=False)
    """Made inside the workload's network, bound, those of TCP listening, non-blocking; by name: "dns-udp", "dns-tcp"
    (127.0.0.1:15053), "proxy-dns-udp", "proxy-dns-tcp" (127.0.0.1:15054), "health" (0.0.0.0:15021), "metrics"
    (0.0.0.0:15020)."""

    def close(self) -> None:
        """Close every descriptor. Sockets that were handed on (detached) are left alone."""
        for sock in self.sockets.values():
            sock.close()
        for fd in (self.netns_fd, self.userns_fd):
            if fd is not None:
                os.close(fd)


class Lease:
    """One connection to the holder. What is attached and forwarded through it ends when it is closed, or dies.

    Closing also kills every process that is still in the namespaces attached here, so close it last.
    """

    def __init__(self, sock: socket.socket, info: protocol.InfoReply) -> None:
        """Use `connect` or `ensure_holder` instead."""
        self._sock = sock
        self._info = info

    @property
    def mode(self) -> Mode:
        return cast(Mode, self._info.mode)

    @property
    def holder_pid(self) -> int:
        return self._info.pid

    @property
    def outside(self) -> bool:
        """Whether workloads can reach addresses outside of the mesh."""
        return self._info.outside

    def fileno(self) -> int:
        """Return the descriptor that becomes readable, outside of a call, only when the holder is gone."""
        return self._sock.fileno()

    def attach(self, name: str, capture: Capture | None) -> Attachment:
        """Make the network of workload `name`: its namespace, address, capture rules and the agent's sockets.

        `capture` None is for gateways: no TCP is captured, lookups still go to the agent. A name keeps its address
        while the holder lives, unless all others are taken. Raises `Refused` when the name is attached by a lease
        that still stands, `BadInput` for a name or capture that cannot be, `Unavailable` when the holder is gone.
        """
        if capture is not None:
            check_capture(capture)
        request = protocol.AttachRequest(name=name, capture=capture)
        reply, fds = self._call(request, protocol.AttachReply)
        named = dict(zip(reply.fds, fds, strict=True))
        netns = named.pop("netns")
        userns = named.pop("userns", None)
        sockets = {key: socket.socket(fileno=fd) for key, fd in named.items()}
        for sock in sockets.values():
            sock.setblocking(False)  # the kernel's they are already; Python's object does not know
        return Attachment(
            name=name,
            ip=reply.ip,
            prefix_len=reply.prefix_len,
            gateway=reply.gateway,
            netns_fd=netns,
            userns_fd=userns,
            sockets=sockets,
        )

    def release(self, name: str) -> None:
        """End workload `name` of this lease: its link and address are freed, what still runs inside is killed."""
        self._call(protocol.ReleaseRequest(name=name), protocol.Ok)

    def forward(self, listener: socket.socket, ip: str, port: int) -> None:
        """Carry what reaches `listener`, a listening TCP or a bound UDP socket of the host, to `ip`:`port` in the mesh.

        The holder takes it over until this lease ends; the caller may close its own copy.
        """
        self._call(protocol.ForwardRequest(ip=ip, port=port), protocol.Ok, (listener.fileno(),))

    def info(self) -> protocol.InfoReply:
        """Return what the holder holds now."""
        reply, _ = self._call(protocol.InfoRequest(), protocol.InfoReply)
        return reply

    def close(self) -> None:
        """End the lease. The holder ends a moment after its last lease."""
        self._sock.close()

    def close_and_stop(self) -> None:
        """End the lease; when it was the last, the holder and all that it made are gone once this returns."""
        with contextlib.suppress(Unavailable, OSError), self._sock:  # gone already is what was wanted
            pidfd = os.pidfd_open(self.holder_pid)
            try:
                reply, _ = self._call(protocol.StopIfIdleRequest(), protocol.StopReply)
                if reply.stopping:
                    ended = select.poll()  # not select(2): descriptors may be beyond 1024
                    ended.register(pidfd, select.POLLIN)
                    ended.poll(REQUEST_SECONDS * 1000)
            finally:
                os.close(pidfd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self, request: protocol.Request, reply_type: type[_Reply], fds: tuple[int, ...] = ()
    ) -> tuple[_Reply, list[int]]:
        try:
            protocol.send(self._sock, request, fds)
            data, received = protocol.receive(self._sock)
        except OSError as error:
            raise Unavailable(f"network holder (pid {self.holder_pid}) does not answer: {error}") from error
        if not data:
            raise Unavailable(f"network holder (pid {self.holder_pid}) is gone")
        return protocol.decode_reply(data, reply_type), received


def connect(settings: Settings) -> Lease:
    """Return a lease from the running holder. Raises `Unavailable` when there is none."""
    path = str(settings.net_socket)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(REQUEST_SECONDS)
        sock.connect(path)
        lease = Lease(sock, protocol.InfoReply(pid=0, mode="", outside=False, workloads={}))
        return Lease(sock, lease.info())
    except OSError as error:
        sock.close()
        raise Unavailable(f"no network holder at {path!r}: {error.strerror}") from error
    except LateenError:
        sock.close()
        raise


def ensure_holder(settings: Settings, *, outside: bool = True) -> Lease:
    """Return a lease, from a holder started for it when none runs.

    The holder outlives the caller for as long as any lease stands. `outside` False starts it without a way out of the
    mesh, even where this machine has `pasta`. Raises `Unsupported` with the kernel's reason where no namespaces can be
    made, `Unavailable` when the holder does not get ready in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return connect(settings)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        _start_holder(settings, outside=outside, seconds=max(deadline - time.monotonic(), 1.0))
        # A holder that was just leaving can answer the first try and be gone at the next: hence the loop.
        time.sleep(_RETRY_SECONDS)


def _start_holder(settings: Settings, *, outside: bool, seconds: float) -> None:
    settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lateen.net.holder", "--state", str(settings.state)]
    if not outside:
        command.append("--no-outside")
    try:
        # The started process returns as soon as the holder, its child, answers; so nobody waits for the holder itself.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"network holder was not ready after {seconds:.0f} s") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unsupported(f"network holder cannot start: {reason or f'exit code {done.returncode}'}")
