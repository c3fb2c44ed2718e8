"""What clients and the holder say to each other on `run/net.sock`: one JSON message a packet, descriptors beside it.

A connection is a lease: what was attached or forwarded on it ends with it. Each request gets exactly one reply, in
order. Replies of `attach` carry descriptors by SCM_RIGHTS, in the order of `AttachReply.fds`; a `forward` request
carries the listening socket.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Any, TypeVar, cast

import msgspec

from lateen.errors import BadInput, LateenError, Refused, Unavailable, Unsupported
from lateen.net.capture import Capture

__all__ = [
    "MAX_FDS",
    "MAX_MESSAGE_BYTES",
    "AttachReply",
    "AttachRequest",
    "Failure",
    "ForwardRequest",
    "InfoReply",
    "InfoRequest",
    "Ok",
    "ReleaseRequest",
    "Request",
    "StopIfIdleRequest",
    "StopReply",
    "decode_reply",
    "decode_request",
    "encode",
    "receive",
    "send",
    "to_error",
    "to_failure",
]

MAX_MESSAGE_BYTES = 65536
MAX_FDS = 8  # more than any message carries

_Reply = TypeVar("_Reply", bound=msgspec.Struct)


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    """Base of the requests."""


class AttachRequest(_Request, frozen=True, kw_only=True, tag="attach"):
    """Make the network of one workload. Reply: `AttachReply`."""

    name: str
    capture: Capture | None  # None: a gateway; only its lookups are captured


class ForwardRequest(_Request, frozen=True, kw_only=True, tag="forward"):
    """Carry every connection that the passed listening socket accepts to `ip`:`port` in the mesh. Reply: `Ok`.

    A bound UDP socket is taken as well: its datagrams are carried.
    """

    ip: str
    port: int


class ReleaseRequest(_Request, frozen=True, kw_only=True, tag="release"):
    """End one workload of this lease before the lease ends. Reply: `Ok`."""

    name: str


class InfoRequest(_Request, frozen=True, kw_only=True, tag="info"):
    """Reply: `InfoReply`."""


class StopIfIdleRequest(_Request, frozen=True, kw_only=True, tag="stop-if-idle"):
    """Give up this lease; if it is the last one, end at once, not after the grace time. Reply: `StopReply`."""


Request = AttachRequest | ForwardRequest | ReleaseRequest | InfoRequest | StopIfIdleRequest


class AttachReply(msgspec.Struct, frozen=True, kw_only=True, tag="attached"):
    ip: str
    prefix_len: int
    gateway: str
    fds: tuple[str, ...]  # "netns", "userns" (rootless only), and the names of `Attachment.sockets`


class InfoReply(msgspec.Struct, frozen=True, kw_only=True, tag="info"):
    pid: int
    mode: str  # "root" | "rootless"
    outside: bool  # whether workloads have a way out of the mesh
    workloads: dict[str, str]  # name -> address, of every lease


class StopReply(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    stopping: bool  # whether the holder ends now; otherwise only this lease did


class Ok(msgspec.Struct, frozen=True, tag="ok"):
    """Done."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    kind: str  # a key of _KINDS
    message: str


_KINDS: dict[str, type[LateenError]] = {
    "bad-input": BadInput,
    "refused": Refused,
    "unavailable": Unavailable,
    "unsupported": Unsupported,
}


def encode(message: object) -> bytes:
    """Return the JSON of one message."""
    return msgspec.json.encode(message)


def decode_request(data: bytes) -> Request:
    """Return the request in `data`. Raises `BadInput` when it is none."""
    return cast(Request, _decode(data, Request))


def decode_reply(data: bytes, type_: type[_Reply]) -> _Reply:
    """Return the reply in `data`. Raises the error that it tells, or `BadInput` when it is no such reply."""
    reply = _decode(data, type_ | Failure)
    if isinstance(reply, Failure):
        raise to_error(reply)
    return cast(_Reply, reply)


def send(sock: socket.socket, message: object, fds: tuple[int, ...] = ()) -> None:
    """Send one message as one packet. Raises `OSError`."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next packet and its descriptors, which the caller then owns; `b""` when the peer is gone.

    Descriptors are close-on-exec. Raises `OSError`, and `BadInput` for a packet or descriptors that were cut off.
    """
    # Not socket.recv_fds: in Python 3.11 it forgets its flags, and children would inherit what was received.
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise BadInput(f"message to the network holder: over {MAX_MESSAGE_BYTES} bytes or {MAX_FDS} descriptors")
    return data, fds.tolist()


def to_failure(error: LateenError) -> Failure:
    """Return how an error travels."""
    kind = next((name for name, class_ in _KINDS.items() if isinstance(error, class_)), "unavailable")
    return Failure(kind=kind, message=str(error))


def to_error(failure: Failure) -> LateenError:
    """Return the error that travelled, to be raised."""
    return _KINDS.get(failure.kind, Unavailable)(failure.message)


def _decode(data: bytes, type_: object) -> object:
    try:
        return msgspec.json.decode(data, type=cast(Any, type_))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"message to the network holder: {error}") from error
