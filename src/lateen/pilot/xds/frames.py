"""Write discovery responses as bytes, by splicing resources that were serialised once.

In:  names, versions, serialised `Any` bodies. Out: `DeltaDiscoveryResponse` or `DiscoveryResponse` on the wire.
A body is never copied but into the response itself: an entry is its small prefix (tags, lengths, name, version)
followed by the body. Field numbers: envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

__all__ = ["delta_prefix", "delta_response", "sotw_prefix", "sotw_response"]

_BYTES_FIELD: Final = 2  # wire type of strings, bytes and messages


def delta_prefix(name: str, version: str, body_bytes: int) -> bytes:
    """Return what stands before a body of that length in `DeltaDiscoveryResponse.resources`."""
    head = _text(3, name) + _text(1, version) + _tag(2) + _varint(body_bytes)
    return _tag(2) + _varint(len(head) + body_bytes) + head


def sotw_prefix(body_bytes: int) -> bytes:
    """Return what stands before a body of that length in `DiscoveryResponse.resources`."""
    return _tag(2) + _varint(body_bytes)


def delta_response(*, type_url: str, nonce: str, version: str, parts: Sequence[bytes], removed: Iterable[str]) -> bytes:
    """Return a `DeltaDiscoveryResponse`; `parts` are prefixes and bodies in turn. `version` is for people only."""
    gone = [_text(6, name) for name in removed]
    return b"".join([_text(1, version), _type_field(4, type_url), _text(5, nonce), *gone, *parts])


def sotw_response(*, type_url: str, nonce: str, version: str, parts: Sequence[bytes]) -> bytes:
    """Return a `DiscoveryResponse`; `parts` are prefixes and bodies in turn."""
    return b"".join([_text(1, version), _type_field(4, type_url), _text(5, nonce), *parts])


def _text(number: int, text: str) -> bytes:
    if not text:
        return b""
    data = text.encode()
    return _tag(number) + _varint(len(data)) + data


@lru_cache(maxsize=64)
def _type_field(number: int, type_url: str) -> bytes:
    return _text(number, type_url)


def _tag(number: int) -> bytes:
    return bytes((number << 3 | _BYTES_FIELD,))  # all numbers here are below 16: one byte


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
