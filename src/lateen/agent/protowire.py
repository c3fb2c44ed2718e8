"""Protocol buffers on the wire, as far as an agent needs them: fields in, fields out. Pure.

The protobuf library costs an agent 4 MB; what it says and hears is a dozen fields. Rules: the encoding specification
(protobuf.dev/programming-guides/encoding), proto3: what is absent has its default, unknown fields are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from lateen.errors import BadInput

__all__ = [
    "Fields",
    "embedded",
    "encode_struct",
    "messages",
    "number",
    "parse_fields",
    "string",
    "text",
    "texts",
    "varint",
]

Fields = dict[int, list[int | bytes]]  # number -> values in order: integers as they are, everything else as bytes

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def varint(value: int) -> bytes:
    """Return a number of 0 or more."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(field: int, value: str | bytes) -> bytes:
    """Return a field of text or bytes; nothing for the empty one, which is the default."""
    data = value.encode() if isinstance(value, str) else value
    return embedded(field, data) if data else b""


def embedded(field: int, data: bytes) -> bytes:
    """Return a field that holds a message, which may be empty."""
    return varint(field << 3 | _BYTES) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    """Return a field of a number of 0 or more; nothing for 0."""
    return varint(field << 3 | _VARINT) + varint(value) if value else b""


def encode_struct(values: Mapping[str, Any]) -> bytes:
    """Return a `google.protobuf.Struct` of texts, booleans, numbers, lists, mappings and nothing (null)."""
    entries = (embedded(1, string(1, name) + embedded(2, _value(values[name]))) for name in sorted(values))
    return b"".join(entries)


def _value(value: Any) -> bytes:
    match value:
        case None:
            return varint(1 << 3 | _VARINT) + varint(0)
        case str():
            return embedded(3, value.encode())
        case bool():
            return varint(4 << 3 | _VARINT) + varint(int(value))
        case int() | float():
            return varint(2 << 3 | _FIXED64) + _double(value)
        case Mapping():
            return embedded(5, encode_struct(value))
        case _ if isinstance(value, Iterable):
            return embedded(6, b"".join(embedded(1, _value(item)) for item in value))
        case _:
            raise BadInput(f"metadata: text, boolean, number, list or mapping wanted, got {type(value).__name__}")


def _double(value: float) -> bytes:
    try:
        return struct.pack("<d", value)
    except OverflowError as error:
        raise BadInput("metadata: a number that no double holds") from error


def parse_fields(data: bytes) -> Fields:
    """Return the fields of one message. Raises `BadInput` for bytes that are none."""
    fields: Fields = {}
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        field, wire_type = tag >> 3, tag & 7
        value: int | bytes
        if wire_type == _VARINT:
            value, position = _read_varint(data, position)
        elif wire_type in (_BYTES, _FIXED64, _FIXED32):
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
            if size is None:
                size, position = _read_varint(data, position)
            if size > len(data) - position:
                raise BadInput(f"message of {len(data)} bytes ends inside of field {field}")
            value, position = data[position : position + size], position + size
        else:
            raise BadInput(f"message with wire type {wire_type}")
        if not field:
            raise BadInput("message with field number 0")
        fields.setdefault(field, []).append(value)
    return fields


def text(fields: Fields, field: int) -> str:
    """Return a field of text: the last one that was sent, "" when none was. Raises `BadInput`."""
    found = texts(fields, field)
    return found[-1] if found else ""


def texts(fields: Fields, field: int) -> list[str]:
    """Return a repeated field of text. Raises `BadInput`."""
    try:
        return [value.decode() for value in messages(fields, field)]
    except UnicodeDecodeError as error:
        raise BadInput(f"field {field}: no UTF-8") from error


def messages(fields: Fields, field: int) -> list[bytes]:
    """Return a repeated field of messages or bytes. Raises `BadInput`."""
    found: list[bytes] = []
    for value in fields.get(field, ()):
        if not isinstance(value, bytes):
            raise BadInput(f"field {field}: bytes wanted, got a number")
        found.append(value)
    return found


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise BadInput("message with a number that does not end")
