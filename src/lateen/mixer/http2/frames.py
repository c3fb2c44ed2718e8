"""Frames of HTTP/2 (RFC 9113), and answers of gRPC in them. Pure.

Headers of answers are always the same few, so they are written once, without a table: literals that are not indexed.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "MAX_FRAME",
    "PADDED",
    "PING",
    "PREFACE",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "answer_frames",
    "changes_table",
    "failure_frame",
    "frame",
    "without_padding",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, _, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
MAX_FRAME: Final = 16_384  # what is sent, and taken: the least that everybody takes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def without_padding(flags: int, payload: bytes, *, headers: bool = False) -> bytes:
    """Return what a frame holds. Raises: ValueError for padding that is longer than the frame."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ValueError("no length of padding")
        start, end = 1, end - payload[0]
    if headers and flags & PRIORITISED:
        start += 5
    if start > end:
        raise ValueError("more padding than frame")
    return payload[start:end] if (start, end) != (0, len(payload)) else payload


def _literal(name: str, value: str) -> bytes:
    """Return a header that no table keeps, both parts plain. Shorter than 127 bytes each."""
    encoded = value.encode()
    return b"\x00" + bytes((len(name),)) + name.encode() + _length(len(encoded)) + encoded


def _length(size: int) -> bytes:
    """Return a length of a plain text: seven bits, then as many groups of seven as it takes."""
    if size < 127:
        return bytes((size,))
    size -= 127
    found = bytearray((127,))
    while size >= 128:
        found.append(size % 128 | 128)
        size //= 128
    found.append(size)
    return bytes(found)


_OK: Final = b"\x88"  # :status 200, of the table that everybody has
_HEAD: Final = _OK + _literal("content-type", "application/grpc")
_TAIL: Final = _literal("grpc-status", "0")
_HEAD_START: Final = len(_HEAD).to_bytes(3, "big") + bytes((HEADERS, END_HEADERS))
_TAIL_START: Final = len(_TAIL).to_bytes(3, "big") + bytes((HEADERS, END_HEADERS | END_STREAM))


def changes_table(block: bytes) -> bool:
    """Tell whether a block of headers (RFC 7541) may change the table that blocks after it are read by.

    Nothing is decoded: an entry of the table and a literal that is not indexed change nothing, all else does.
    """
    at, end = 0, len(block)
    while at < end:
        first = block[at]
        if first & 0x80:  # an entry of the table
            at = _behind_number(block, at, 0x7F)
        elif first & 0xE0:  # a literal for the table, or another size of it
            return True
        else:
            named = first & 0x0F
            at = _behind_number(block, at, 0x0F)
            for _ in range(1 if named else 2):
                if at >= end:
                    return True
                size, at = _number(block, at, 0x7F)
                at += size
    return at != end


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return the number whose first byte is at `at`, and where it ends; beyond the block where it does not."""
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    shift = 0
    while at < len(block) and shift < 28:
        number += (block[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not block[at - 1] & 0x80:
            return number, at
    return number, len(block) + 1


def _behind_number(block: bytes, at: int, mask: int) -> int:
    return _number(block, at, mask)[1]


def answer_frames(stream: int, message: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the frame of headers, the bytes that data frames carry, and the frame of trailers."""
    number = stream.to_bytes(4, "big")
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    return _HEAD_START + number + _HEAD, body, _TAIL_START + number + _TAIL


def failure_frame(stream: int, code: int, message: str) -> bytes:
    """Return the one frame of a call that gets a status and no answer."""
    text = quote(message[:1000], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        _HEAD + _literal("grpc-status", str(code)) + _literal("grpc-message", text),
    )
