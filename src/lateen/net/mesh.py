"""The namespaces of a mesh: the one with the bridge, in which this process then lives, and one for each workload.

Everything here is a handful of system calls that never wait, made by the one thread of the holder. It steps into a
workload's namespace only within `Mesh.attach`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from lateen.errors import BadInput, Unsupported
from lateen.net import kernel, links, nft
from lateen.net.addresses import GATEWAY, NETWORK, VIRTUAL, AddressPool, mac_address
from lateen.net.capture import DNS_PORT, HEALTH_PORT, METRICS_PORT, PROXY_DNS_PORT, Capture, check_capture
from lateen.net.netlink import NETLINK_ROUTE, Netlink
from lateen.net.rules import capture_chains, gateway_chains, outside_chains

__all__ = ["BRIDGE", "Mesh", "Workload", "enter_mesh", "enter_namespaces", "kill_inside"]

BRIDGE = "lateen0"
NAME_BYTES = 200  # of a workload; a DNS name is shorter
BACKLOG = 1024

_EVERYWHERE = IPv4Network("0.0.0.0/0")
_SOCKETS: tuple[tuple[str, socket.SocketKind, str, int], ...] = (
    ("dns-udp", socket.SOCK_DGRAM, "127.0.0.1", DNS_PORT),
    ("dns-tcp", socket.SOCK_STREAM, "127.0.0.1", DNS_PORT),
    ("proxy-dns-udp", socket.SOCK_DGRAM, "127.0.0.1", PROXY_DNS_PORT),
    ("proxy-dns-tcp", socket.SOCK_STREAM, "127.0.0.1", PROXY_DNS_PORT),
    ("health", socket.SOCK_STREAM, "0.0.0.0", HEALTH_PORT),  # noqa: S104  # of the workload's own network
    ("metrics", socket.SOCK_STREAM, "0.0.0.0", METRICS_PORT),  # noqa: S104
)
_MESH_SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),  # so that the kernel answers "no route" for what leads nowhere: no caller waits
    ("net/ipv4/icmp_ratelimit", "0"),  # and answers every time; a workload may try often
    ("net/ipv6/conf/default/disable_ipv6", "1"),
)
_WORKLOAD_SYSCTLS = (
    ("net/ipv6/conf/default/disable_ipv6", "1"),  # of eth0, still to come; `lo` keeps ::1
    ("net/ipv4/ip_unprivileged_port_start", "0"),  # a network of its own: any port is the workload's to bind
    ("net/ipv4/ping_group_range", "0 2147483647"),  # ping(8) without CAP_NET_RAW, which could set marks
)
_PING_ROOTLESS = "0 0"  # only ids that are mapped can be named


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One attached workload. Whoever holds it closes `fds`, once they were sent."""

    name: str
    address: IPv4Address
    link: str  # in the mesh's namespace
    netns_inode: int
    fds: dict[str, int] = field(repr=False)


class Mesh:
    """The mesh's namespace, entered, with its bridge. Made by `enter_mesh`."""

    def __init__(self, mode: Literal["root", "rootless"], route: Netlink, bridge: int) -> None:
        self.mode = mode
        self._route = route
        self._bridge = bridge
        self._pool = AddressPool()
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def workloads(self) -> dict[str, str]:
        """Return the names that are attached and their addresses."""
        return self._pool.held

    def attach(self, name: str, capture: Capture | None) -> Workload:
        """Make a workload's namespace, link, rules and sockets; on failure nothing of it stays.

        `name` is not attached now. Raises `BadInput`, `Unavailable` when addresses ran out, `OSError` from the kernel.
        """
        if not name.isprintable() or not 1 <= len(name.encode()) <= NAME_BYTES:
            raise BadInput(f"workload name: must be 1 to {NAME_BYTES} printable bytes, got {name!r:.80}")
        if capture is not None:
            check_capture(capture)
        address = self._pool.take(name)
        link = f"lt{int(address) & 0xFFFF:04x}"
        fds: dict[str, int] = {}
        try:
            self._make(link, address, capture, fds)
        except BaseException:
            for fd in fds.values():
                os.close(fd)  # the namespace, and its end of the link with it, ends with its last descriptor
            self._pool.free(name)
            raise
        inode = os.fstat(fds["netns"]).st_ino
        return Workload(name=name, address=address, link=link, netns_inode=inode, fds=fds)

    def release(self, workload: Workload) -> None:
        """Delete the workload's link and take its address back. What still runs in its namespace is `kill_inside`'s."""
        with contextlib.suppress(OSError):  # gone already, when its namespace went first
            self._route.request([links.delete_link(workload.link)])
        self._pool.free(workload.name)

    def masquerade(self, link: str) -> None:
        """Let workloads out by `link`. Raises `OSError`."""
        nft.install(outside_chains(link))

    def _make(self, link: str, address: IPv4Address, capture: Capture | None, fds: dict[str, int]) -> None:
        with self._new_namespace(fds):
            _set(_WORKLOAD_SYSCTLS)
            if self.mode == "rootless":
                _set((("net/ipv4/ping_group_range", _PING_ROOTLESS),))
            self._route.request(  # a socket of the mesh's namespace, wherever this thread is
                [links.add_veth(link, master=self._bridge, peer_netns=fds["netns"], peer_address=mac_address(address))]
            )
            with Netlink(NETLINK_ROUTE) as route:
                route.request(
                    [
                        links.set_up(links.LOOPBACK),
                        links.add_address(links.WORKLOAD_INDEX, address, NETWORK.prefixlen),
                        links.set_up(links.WORKLOAD_INDEX),
                        links.add_route(_EVERYWHERE, GATEWAY),
                    ]
                )
            nft.install(gateway_chains() if capture is None else capture_chains(capture))
            for key, kind, host, port in _SOCKETS:
                fds[key] = _bind(kind, host, port)
        if self.mode == "rootless":
            fds["userns"] = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def _new_namespace(self, fds: dict[str, int]) -> Iterator[None]:
        kernel.unshare(kernel.CLONE_NEWNET)
        try:
            fds["netns"] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            yield
        finally:
            kernel.setns(self._own, kernel.CLONE_NEWNET)


def enter_namespaces() -> Literal["root", "rootless"]:
    """Move this process, which must have one thread, into a network namespace of its own: with root if it can, else in
    a user namespace. Raises `Unsupported` with the kernel's reason.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        kernel.unshare(kernel.CLONE_NEWNET)
        return "root"
    except PermissionError:
        pass  # not root, or a root that may not; a user namespace is the other way
    except OSError as error:
        raise Unsupported(f"network namespace: {error.strerror}; `lateen doctor` says more") from error
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
        kernel.map_user(0, 0, uid, gid)
        kernel.unshare(kernel.CLONE_NEWNET)
    except OSError as error:
        raise Unsupported(f"user and network namespace: {error.strerror}; `lateen doctor` says more") from error
    return "rootless"


def enter_mesh() -> Mesh:
    """Enter the namespaces of a new mesh and make its bridge. Raises `Unsupported`."""
    mode = enter_namespaces()
    _set(_MESH_SYSCTLS)
    try:
        route = Netlink(NETLINK_ROUTE)
        route.request([links.set_up(links.LOOPBACK), links.add_bridge(BRIDGE, mac_address(GATEWAY))])
        bridge = socket.if_nametoindex(BRIDGE)
        route.request(
            [
                links.add_address(bridge, GATEWAY, NETWORK.prefixlen),
                *(links.add_unreachable(network) for network in VIRTUAL),
            ]
        )
    except OSError as error:
        raise Unsupported(f"mesh network: {error}; `lateen doctor` says more") from error
    return Mesh(mode, route, bridge)


def kill_inside(netns_inode: int) -> int:
    """Send SIGKILL to every process in a network namespace and return how many there were.

    A process that forks meanwhile can escape one round, so callers repeat until none is left. Never this process.
    """
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or not _is_inside(entry, netns_inode) or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile
            pidfd = os.pidfd_open(int(entry))
            try:
                if _is_inside(entry, netns_inode):  # again: the number is that of `pidfd` for sure now
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    count += 1
            finally:
                os.close(pidfd)
    return count


def _is_inside(pid: str, netns_inode: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == netns_inode
    except OSError:  # ended, or another user's
        return False


def _bind(kind: socket.SocketKind, host: str, port: int) -> int:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        if kind is socket.SOCK_STREAM:
            sock.listen(BACKLOG)
        sock.setblocking(False)
        return sock.detach()
    finally:
        sock.close()


def _set(values: tuple[tuple[str, str], ...]) -> None:
    """Write what can be written: in some containers /proc/sys is read-only, and each of these only makes it nicer."""
    for path, value in values:
        with contextlib.suppress(OSError), open(f"/proc/sys/{path}", "w") as file:
            file.write(value)
