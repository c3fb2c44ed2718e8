"""Serve the mesh network to its leases: one thread, one loop, a few system calls a request.

A lease is a connection. What it attached or forwarded ends with it, for whatever reason it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import Any, assert_never

from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.net import protocol
from lateen.net.addresses import GATEWAY, NETWORK
from lateen.net.datagrams import run_datagram_forwarder
from lateen.net.forward import run_forwarder
from lateen.net.mesh import Mesh, Workload, kill_inside

__all__ = ["GRACE_SECONDS", "MAX_LEASES", "Server"]

GRACE_SECONDS = 0.5  # without a lease before the holder ends: time for one who restarts
FIRST_LEASE_SECONDS = 10.0  # for whoever started the holder to connect
MAX_LEASES = 4096
KILL_ROUNDS = 100  # for processes that fork while they are killed
KILL_GAP_SECONDS = 0.01


@dataclass(slots=True, eq=False)
class _Lease:
    sock: socket.socket
    workloads: dict[str, Workload] = field(default_factory=dict)
    forwarders: set[asyncio.Task[None]] = field(default_factory=set)


class Server:
    """The holder's state and its answers. `run` is its life."""

    def __init__(self, mesh: Mesh, listener: socket.socket, *, outside: bool) -> None:
        self._mesh = mesh
        self._listener = listener
        self._outside = outside
        self._leases: set[_Lease] = set()
        self._killing: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._end: asyncio.TimerHandle | None = None

    async def run(self, leave: Callable[[], None]) -> None:
        """Serve until no lease has stood for `GRACE_SECONDS`, or until cancelled; then nothing that was made remains.

        `leave` takes the socket's name away, so that nobody else connects. Leases that still stand are closed by the
        end of the process, after everything else.
        """
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        loop.add_reader(self._listener, self._accept)
        self._end_after(FIRST_LEASE_SECONDS)
        try:
            await self._done.wait()
        finally:
            leave()
            loop.remove_reader(self._listener)
            self._listener.close()  # resets whoever still waits there: they start a new holder
            for lease in self._leases:
                loop.remove_reader(lease.sock)
                self._free(lease)
            while self._killing:
                await asyncio.wait(self._killing)

    def stop(self) -> None:
        """End `run`, whatever leases stand."""
        self._done.set()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # the one who waits stays in the queue; try again later
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(KILL_GAP_SECONDS, loop.add_reader, self._listener, self._accept)
            return
        if len(self._leases) >= MAX_LEASES:
            sock.close()
            return
        sock.setblocking(False)
        lease = _Lease(sock)
        self._leases.add(lease)
        if self._end:
            self._end.cancel()
        asyncio.get_running_loop().add_reader(sock, self._readable, lease)

    def _readable(self, lease: _Lease) -> None:
        fds: list[int] = []
        last = False
        try:
            data, fds = protocol.receive(lease.sock)
            if not data:
                self._drop(lease)
                return
            request = protocol.decode_request(data)
            last = isinstance(request, protocol.StopIfIdleRequest)
            reply, passed = self._answer(lease, request, fds)
        except BlockingIOError:
            return
        except BadInput as error:
            # Told, then dropped: who talks like this is not a client, or is one of another version.
            reply, passed, last = protocol.to_failure(error), (), not lease.workloads
        except LateenError as error:
            reply, passed = protocol.to_failure(error), ()
        except OSError as error:
            failure = Unavailable(f"network holder: {error}")
            reply, passed = protocol.to_failure(failure), ()
        finally:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._reply(lease, reply, passed, last=last)

    def _reply(self, lease: _Lease, reply: object, passed: tuple[int, ...], *, last: bool) -> None:
        try:
            protocol.send(lease.sock, reply, passed)
        except OSError:  # gone, or does not read its replies
            last = True
        finally:
            for fd in passed:
                os.close(fd)
        if not last:
            return
        if isinstance(reply, protocol.StopReply) and reply.stopping:
            self._done.set()
        else:
            self._drop(lease)

    def _answer(self, lease: _Lease, request: protocol.Request, fds: list[int]) -> tuple[object, tuple[int, ...]]:
        """Return the reply and the descriptors to pass with it, which are closed after."""
        match request:
            case protocol.AttachRequest(name=name, capture=capture):
                self._make_way(name)
                workload = self._mesh.attach(name, capture)
                lease.workloads[name] = workload
                return _attached(workload), tuple(workload.fds.values())
            case protocol.ForwardRequest(ip=ip, port=port):
                self._forward(lease, ip, port, fds)
                return protocol.Ok(), ()
            case protocol.ReleaseRequest(name=name):
                if name not in lease.workloads:
                    raise Refused(f"workload {name!r} is not one of this lease")
                self._release(lease.workloads.pop(name))
                return protocol.Ok(), ()
            case protocol.InfoRequest():
                return self._info(), ()
            case protocol.StopIfIdleRequest():
                return protocol.StopReply(stopping=self._leases == {lease}), ()
            case _:
                assert_never(request)

    def _info(self) -> protocol.InfoReply:
        return protocol.InfoReply(
            pid=os.getpid(), mode=self._mesh.mode, outside=self._outside, workloads=self._mesh.workloads
        )

    def _make_way(self, name: str) -> None:
        """Raise `Refused` when a lease that still stands holds `name`; one whose end was not yet seen is dropped."""
        owner = next((lease for lease in self._leases if name in lease.workloads), None)
        if owner is None:
            return
        with contextlib.suppress(OSError):
            if owner.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                self._drop(owner)
                return
        raise Refused(f"workload {name!r} is attached already; it must end first, or take another version")

    def _forward(self, lease: _Lease, ip: str, port: int, fds: list[int]) -> None:
        try:
            address = IPv4Address(ip)
        except AddressValueError as error:
            raise BadInput(f"forward ip: {error}") from error
        if not 1 <= port <= 65535:
            raise BadInput(f"forward port: must be between 1 and 65535, got {port}")
        if len(fds) != 1:
            raise BadInput(f"forward: wants one listening socket, got {len(fds)} descriptors")
        listener = socket.socket(fileno=os.dup(fds[0]))
        run = _forwarder_of(listener)
        if run is None:
            listener.close()
            raise BadInput("forward: wants a listening TCP or a bound UDP socket, got something else")
        listener.setblocking(False)
        task = asyncio.get_running_loop().create_task(run(listener, str(address), port))
        lease.forwarders.add(task)
        task.add_done_callback(lease.forwarders.discard)

    def _drop(self, lease: _Lease) -> None:
        if lease not in self._leases:
            return
        self._leases.discard(lease)
        asyncio.get_running_loop().remove_reader(lease.sock)
        lease.sock.close()
        self._free(lease)
        if not self._leases:
            self._end_after(GRACE_SECONDS)

    def _free(self, lease: _Lease) -> None:
        for task in lease.forwarders:
            task.cancel()
        for workload in lease.workloads.values():
            self._release(workload)
        lease.workloads.clear()

    def _release(self, workload: Workload) -> None:
        self._mesh.release(workload)
        if kill_inside(workload.netns_inode):
            task = asyncio.get_running_loop().create_task(_kill_rest(workload.netns_inode))
            self._killing.add(task)
            task.add_done_callback(self._killing.discard)

    def _end_after(self, seconds: float) -> None:
        if self._end:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(seconds, self._done.set)


def _attached(workload: Workload) -> protocol.AttachReply:
    return protocol.AttachReply(
        ip=str(workload.address), prefix_len=NETWORK.prefixlen, gateway=str(GATEWAY), fds=tuple(workload.fds)
    )


async def _kill_rest(netns_inode: int) -> None:
    for _ in range(KILL_ROUNDS):
        await asyncio.sleep(KILL_GAP_SECONDS)
        if not kill_inside(netns_inode):
            return


def _forwarder_of(sock: socket.socket) -> Callable[[socket.socket, str, int], Coroutine[Any, Any, None]] | None:
    """Return what carries the traffic of a socket, None for one that is neither listening TCP nor bound UDP."""
    with contextlib.suppress(OSError):
        inet = sock.family in (socket.AF_INET, socket.AF_INET6)
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return run_forwarder
        if inet and sock.type == socket.SOCK_DGRAM and sock.getsockname()[1]:
            return run_datagram_forwarder
    return None
