"""Links, addresses and routes, as netlink messages. Formats: rtnetlink(7)."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Network

from lateen.net.netlink import Message, attribute, nest

__all__ = [
    "LOOPBACK",
    "WORKLOAD_INDEX",
    "WORKLOAD_LINK",
    "add_address",
    "add_bridge",
    "add_route",
    "add_unreachable",
    "add_veth",
    "delete_link",
    "set_up",
]

LOOPBACK = 1  # index of `lo` in every namespace
WORKLOAD_LINK = "eth0"
WORKLOAD_INDEX = 2  # asked for by `add_veth`, so it need not be looked up

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_NLM_F_CREATE_EXCL = 0x400 | 0x200
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 1, 3, 10, 18, 26, 28
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_GATEWAY = 1, 5
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _RTN_UNICAST, _RTN_UNREACHABLE = 254, 3, 0, 1, 7


def add_bridge(name: str, address: bytes) -> Message:
    """Return the request for a bridge that is up, without spanning tree: its ports forward at once."""
    body = (
        _link(up=True)
        + _name(name)
        + attribute(_IFLA_ADDRESS, address)  # given, so that it does not follow the ports that come and go
        + nest(_IFLA_LINKINFO, attribute(_INFO_KIND, b"bridge"))
    )
    return Message(f"bridge {name}", _NEWLINK, _NLM_F_CREATE_EXCL, body)


def add_veth(name: str, *, master: int, peer_netns: int, peer_address: bytes) -> Message:
    """Return the request for a pair: `name` here, up, in bridge `master`; `eth0` in the namespace `peer_netns`.

    The peer gets no IPv6 address of its own making (see docs/design/0004-network.md).
    """
    peer = (
        _link(index=WORKLOAD_INDEX)
        + _name(WORKLOAD_LINK)
        + attribute(_IFLA_ADDRESS, peer_address)
        + attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_netns))
    )
    info = attribute(_INFO_KIND, b"veth") + nest(_INFO_DATA, attribute(_VETH_INFO_PEER, peer))
    body = _link(up=True) + _name(name) + attribute(_IFLA_MASTER, struct.pack("=I", master))
    return Message(f"link {name}", _NEWLINK, _NLM_F_CREATE_EXCL, body + nest(_IFLA_LINKINFO, info))


def set_up(index: int) -> Message:
    """Return the request to bring a link up, without IPv6 addresses made by the kernel where it is not `lo`."""
    body = _link(index=index, up=True)
    if index != LOOPBACK:
        none = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
        body += nest(_IFLA_AF_SPEC, nest(socket.AF_INET6, none))
    return Message(f"link {index} up", _NEWLINK, 0, body)


def delete_link(name: str) -> Message:
    """Return the request to delete a link; the other end of a pair goes with it."""
    return Message(f"delete link {name}", _DELLINK, 0, _link() + _name(name))


def add_address(index: int, address: IPv4Address, prefix_len: int) -> Message:
    """Return the request for an address on a link."""
    body = struct.pack("=BBBBi", socket.AF_INET, prefix_len, 0, _SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    return Message(f"address {address}/{prefix_len}", _NEWADDR, _NLM_F_CREATE_EXCL, body)


def add_route(network: IPv4Network, gateway: IPv4Address) -> Message:
    """Return the request for a route by way of `gateway`."""
    return Message(f"route {network}", _NEWROUTE, _NLM_F_CREATE_EXCL, _route(network, _RTN_UNICAST, gateway))


def add_unreachable(network: IPv4Network) -> Message:
    """Return the request for a route that refuses at once, so nothing waits for an answer."""
    return Message(f"route {network}", _NEWROUTE, _NLM_F_CREATE_EXCL, _route(network, _RTN_UNREACHABLE, None))


def _link(*, index: int = 0, up: bool = False) -> bytes:
    flags = _IFF_UP if up else 0
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _route(network: IPv4Network, kind: int, gateway: IPv4Address | None) -> bytes:
    head = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, network.prefixlen, 0, 0, _TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, kind, 0
    )
    to = attribute(_RTA_DST, network.network_address.packed) if network.prefixlen else b""
    return head + to + (attribute(_RTA_GATEWAY, gateway.packed) if gateway else b"")
