"""Just enough netlink to make links, addresses, routes and nftables rules: encode, send, wait for acknowledgements.

Formats: netlink(7), and Linux's `include/uapi/linux/netlink.h`. pyroute2 would do too, at 200 ms of import, 30 MB and
threads of its own, in a process that must have one thread when it makes its user namespace.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

__all__ = ["NETLINK_NETFILTER", "NETLINK_ROUTE", "Message", "Netlink", "NetlinkError", "attribute", "nest"]

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4

_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_CAP_ACK = 10
_NLMSG_ERROR = 2
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_SECONDS = 5.0  # the kernel answers in microseconds; this only ends a wait that would be a bug
_READ_BYTES = 65536


class NetlinkError(OSError):
    """The kernel refused a message; `errno` is its reason, the text says which message and what the kernel adds."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request: what it is for (shown in errors), its type, flags beside REQUEST and ACK, header and attributes."""

    what: str
    type: int
    flags: int
    body: bytes


def attribute(number: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    length = 4 + len(value)
    return struct.pack("=HH", length, number) + value + b"\0" * (-length % 4)


def nest(number: int, *attributes: bytes) -> bytes:
    """Return one attribute that holds others."""
    return attribute(number | _NLA_F_NESTED, b"".join(attributes))


class Netlink:
    """A netlink socket of the network namespace in which it was made, for good."""

    def __init__(self, protocol: int) -> None:
        self._sequence = 0
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sock.settimeout(_SECONDS)
        self._sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def request(self, messages: Sequence[Message], *, envelope: tuple[Message, Message] | None = None) -> None:
        """Send `messages` at once and return when the kernel has done all of them.

        `envelope` goes around them unacknowledged, as nftables wants for a transaction. Raises `NetlinkError` for the
        first message that was refused; outside of an envelope those before it stay done.
        """
        waiting: dict[int, str] = {}
        packet = bytearray()
        if envelope:
            packet += self._pack(envelope[0], 0)
        for message in messages:
            packet += self._pack(message, NLM_F_ACK)
            waiting[self._sequence] = message.what
        if envelope:
            packet += self._pack(envelope[1], 0)
            # A transaction that fails as a whole is reported under the number of its envelope.
        self._sock.send(packet)
        while waiting:
            self._read(waiting)

    def _pack(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        length = _HEADER.size + len(message.body)
        header = _HEADER.pack(length, message.type, NLM_F_REQUEST | flags | message.flags, self._sequence, 0)
        return header + message.body + b"\0" * (-length % 4)

    def _read(self, waiting: dict[int, str]) -> None:
        data = self._sock.recv(_READ_BYTES)
        while len(data) >= _HEADER.size:
            length, type_, flags, sequence, _ = _HEADER.unpack_from(data)
            if type_ == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                what = waiting.pop(sequence, "transaction")
                if number:
                    hint = _extended(data[_HEADER.size : length]) if flags & _NLM_F_ACK_TLVS else ""
                    raise NetlinkError(number, f"{what}: {os.strerror(number)}{hint}")
            data = data[(length + 3) & ~3 :]


def _extended(body: bytes) -> str:
    rest = body[4 + _HEADER.size :]  # the error and the header it echoes (NETLINK_CAP_ACK leaves the body out)
    while len(rest) >= 4:
        length, number = struct.unpack_from("=HH", rest)
        if number == _NLMSGERR_ATTR_MSG:
            return f" ({rest[4:length].rstrip(bytes(1)).decode(errors='replace')})"
        rest = rest[max((length + 3) & ~3, 4) :]
    return ""
