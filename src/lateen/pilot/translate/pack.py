"""Serialise Envoy messages: once, always to the same bytes.

In:  any protobuf message. Out: `google.protobuf.Any`, or a `Resource` whose version is a hash of its bytes.
Map fields are sorted by key (`deterministic`), which protobuf promises for one library version; after an upgrade that
orders them otherwise, versions differ once and proxies are sent what they hold already, nothing worse.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from lateen.pilot.xds.source import Resource

__all__ = [
    "TYPE_PREFIX",
    "length_delimited",
    "name_of",
    "pack",
    "resource_of",
    "resource_of_bytes",
    "unpack",
    "varint_field",
]

TYPE_PREFIX: Final = "type.googleapis.com/"
LENGTH_DELIMITED: Final = 2  # protobuf's wire type of messages and texts
VERSION_BYTES: Final = 10  # 80 bits: two contents of one resource meet by chance once in 2**80

M = TypeVar("M", bound=Message)


def pack(message: Message) -> AnyMessage:
    """Return `message` inside an `Any`, deterministically serialised."""
    return AnyMessage(
        type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )


def unpack(packed: AnyMessage, kind: type[M]) -> M:
    """Return the message inside an `Any` that holds a `kind`; raises `TypeError` when it holds another."""
    message = kind()
    if not packed.Unpack(message):
        raise TypeError(f"{packed.type_url!r} where {message.DESCRIPTOR.full_name!r} was wanted")
    return message


def name_of(message: Message) -> str:
    """Return the name a resource is subscribed by: `cluster_name` for endpoints, `name` for the other types."""
    return str(getattr(message, "name", "") or getattr(message, "cluster_name", ""))


def resource_of(message: Message) -> Resource:
    """Return `message` ready to send. Same content, same bytes, same version, in every process."""
    return resource_of_bytes(
        name_of(message), message.DESCRIPTOR.full_name, message.SerializeToString(deterministic=True)
    )


def resource_of_bytes(name: str, kind: str, value: bytes) -> Resource:
    """Return a message of type `kind`, serialised already, ready to send."""
    body = AnyMessage(type_url=TYPE_PREFIX + kind, value=value).SerializeToString(deterministic=True)
    return Resource(name, blake2b(body, digest_size=VERSION_BYTES).hexdigest(), body)


def length_delimited(number: int, data: bytes) -> bytes:
    """Return field `number` (below 16) of a message, holding a text or a message, as protobuf writes it."""
    size = len(data)
    if size < 0x80:  # nearly always, so worth its line
        return bytes((number << 3 | LENGTH_DELIMITED, size)) + data
    return bytes((number << 3 | LENGTH_DELIMITED,)) + _varint(size) + data


def varint_field(number: int, value: int) -> bytes:
    """Return field `number` (below 16) of a message, holding a number that is not negative, as protobuf writes it."""
    return bytes((number << 3,)) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
