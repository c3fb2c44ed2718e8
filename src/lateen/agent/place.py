"""Put a workload somewhere: a network of its own where this machine can, else loopback addresses and a proxy port.

Explicit mode is the fallback and is chosen by itself: the workload gets an address 127.77.x.y of its own, its proxy
binds the service's ports there, and the application is told a free port to listen on and an HTTP proxy to call through.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import msgspec

from lateen.agent.log import Log
from lateen.agent.spec import HostListener, Place, WorkloadSpec
from lateen.errors import Refused, Unavailable, Unsupported
from lateen.net.capture import HEALTH_PORT, METRICS_PORT, Capture
from lateen.net.client import Attachment, Lease, connect, ensure_holder
from lateen.settings import Settings
from lateen.wire.local import WorkloadPort

__all__ = ["Grounds", "loopback_addresses", "take_place"]

NETWORK: Final = "127.77"
TRIES: Final = 4096
LOOK_SECONDS: Final = 0.05
BACKLOG: Final = 128


@dataclass(slots=True, kw_only=True)
class Grounds:
    """Where a workload is, and what it holds there. `close` gives everything back."""

    place: Place
    spec: WorkloadSpec  # with the ports that the application is really to listen on
    attachment: Attachment | None = None
    lease: Lease | None = None
    health: socket.socket = field(repr=False)
    metrics: socket.socket = field(repr=False)

    def close(self) -> None:
        """Close sockets and namespaces; processes that are still in them are killed."""
        self.health.close()
        self.metrics.close()
        if self.attachment is not None:
            self.attachment.close()
        if self.lease is not None:
            self.lease.close()


async def take_place(spec: WorkloadSpec, settings: Settings, log: Log) -> Grounds:
    """Find and take a place for a workload. Raises `Unsupported`, `Unavailable`, `Refused` (the name is taken)."""
    if spec.mode == "explicit":
        return _take_explicit(spec)
    try:
        lease = await (_mesh_network(spec, settings) if spec.mode == "auto" else _own_network(settings))
    except Unavailable as error:
        if spec.mode == "capture":
            raise
        log.info("explicit mode", reason=str(error))
        return _take_explicit(spec)
    try:
        return await _take_network(spec, lease)
    except BaseException:
        lease.close()
        raise


async def _own_network(settings: Settings) -> Lease:
    return await asyncio.to_thread(ensure_holder, settings)


def _has_network(settings: Settings) -> bool:
    """Tell whether the control plane found namespaces on this machine when it started."""
    try:
        mesh = msgspec.json.decode(settings.mesh_file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return False
    return bool(mesh.get("network", "explicit") != "explicit")


async def _mesh_network(spec: WorkloadSpec, settings: Settings) -> Lease:
    """Return a lease from the mesh's holder. Raises `Unavailable` when the mesh has none: it lives on loopback."""
    deadline = asyncio.get_running_loop().time() + spec.join_timeout.total_seconds()
    while True:
        # In this order: a control plane writes that file when it has its network, so what is not there then never is.
        settled = settings.mesh_file.exists()
        try:
            return await asyncio.to_thread(connect, settings)
        except Unavailable:
            if settled and _has_network(settings):
                # Its holder was killed: whoever needs the network first brings it back.
                return await _own_network(settings)
            if settled or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(LOOK_SECONDS)


async def _take_network(spec: WorkloadSpec, lease: Lease) -> Grounds:
    capture = Capture() if spec.kind == "sidecar" else None
    attachment = await asyncio.to_thread(lease.attach, spec.name, capture)
    try:
        for listener in spec.listeners:
            with _listen(listener) as sock:
                await asyncio.to_thread(lease.forward, sock, attachment.ip, listener.gateway_port)
            if listener.datagrams:
                with _listen(listener, kind=socket.SOCK_DGRAM) as sock:
                    await asyncio.to_thread(lease.forward, sock, attachment.ip, listener.gateway_port)
    except BaseException:
        attachment.close()
        raise
    return Grounds(
        place=Place(mode="capture", ip=attachment.ip),
        spec=spec,
        attachment=attachment,
        lease=lease,
        health=attachment.sockets["health"],
        metrics=attachment.sockets["metrics"],
    )


def _take_explicit(spec: WorkloadSpec) -> Grounds:
    for listener in spec.listeners:
        if listener.address != "127.0.0.1":
            raise Unsupported(
                f"host address {listener.address!r}: a gateway in explicit mode listens on 127.0.0.1 only"
            )
        _listen(listener).close()  # taken by somebody else: told now, with its name, not later by Envoy
    ip, health, metrics = _take_address(spec.name) if not spec.address else _take_own_address(spec.address)
    if spec.kind == "gateway":
        place = Place(mode="explicit", ip=ip)
    else:
        proxy, *free = _free_ports(1 + len(spec.ports))
        place = Place(mode="explicit", ip=ip, http_proxy_port=proxy)
        ports = (_with_target(port, number) for port, number in zip(spec.ports, free, strict=True))
        spec = dataclasses.replace(spec, ports=tuple(ports))
    return Grounds(place=place, spec=spec, health=health, metrics=metrics)


def loopback_addresses(name: str) -> Iterator[str]:
    """Yield the addresses that a workload tries, in order: the same for the same name, so it mostly keeps its own."""
    start = int.from_bytes(blake2b(name.encode(), digest_size=2).digest(), "big")
    for offset in range(TRIES):
        number = (start + offset) % 65536
        low = number & 0xFF
        if low not in (0, 255):
            yield f"{NETWORK}.{number >> 8}.{low}"


def _take_address(name: str) -> tuple[str, socket.socket, socket.socket]:
    """Return an address of which nobody else has the agent's ports, with the two sockets that prove it."""
    failure: OSError | None = None
    for ip in loopback_addresses(name):
        with contextlib.ExitStack() as stack:
            try:
                health, metrics = (stack.enter_context(_bound(ip, port)) for port in (HEALTH_PORT, METRICS_PORT))
            except OSError as error:
                failure = error
                continue
            stack.pop_all()
            return ip, health, metrics
    raise Unsupported(f"no free address in {NETWORK}.0.0/16 for the ports {HEALTH_PORT} and {METRICS_PORT}: {failure}")


def _take_own_address(ip: str) -> tuple[str, socket.socket, socket.socket]:
    """Return the address that the workload was given, with the agent's ports there."""
    with contextlib.ExitStack() as stack:
        try:
            health, metrics = (stack.enter_context(_bound(ip, port)) for port in (HEALTH_PORT, METRICS_PORT))
        except OSError as error:
            raise Refused(
                f"address {ip}: cannot listen on its ports {HEALTH_PORT} and {METRICS_PORT}: {error.strerror}; "
                "one workload an address, and the address must be this machine's"
            ) from error
        stack.pop_all()
        return ip, health, metrics


def _listen(listener: HostListener, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    try:
        return _bound(listener.address, listener.port, kind)
    except OSError as error:
        raise Refused(
            f"cannot listen on {listener.address}:{listener.port}: {error.strerror}; choose another port"
        ) from error


def _bound(address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:  # of UDP sockets it would let a second one in
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all at once, so that they differ
        socks = [stack.enter_context(_bound("127.0.0.1", 0)) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in socks]


def _with_target(port: WorkloadPort, free: int) -> WorkloadPort:
    # A target that differs from the port was the user's own word of where the application listens.
    target = free if port.target == port.number else port.target
    return WorkloadPort(name=port.name, number=port.number, target=target)
