"""Read the name that a TLS client asks for in its greeting. Pure; what is read is untrusted, and decides nothing but
which of two servers, each with its own checks, goes on with the handshake.

Rules: RFC 8446, sections 4.1.2 and 5.1 (a greeting may be spread over several records); RFC 6066, section 3.
"""

from __future__ import annotations

from typing import Final

from lateen.errors import BadInput

__all__ = ["MAX_GREETING_BYTES", "MAX_RECORDS", "greeted_name"]

MAX_GREETING_BYTES: Final = 32 * 1024  # with post-quantum key shares a greeting has about 2 kB
MAX_RECORDS: Final = 64  # clients need one or two

_HANDSHAKE: Final = 22
_MAX_RECORD_BYTES: Final = 2**14
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


def greeted_name(data: bytes) -> str | None:
    """Return the server name in a greeting, "" when it has none; None: more bytes are needed to tell.

    Raises `BadInput` for what cannot become a greeting.
    """
    message, place, records = bytearray(), 0, 0
    while place < len(data) and not _is_whole(message):
        # All of them are read anew with each byte that arrives: a greeting in crumbs would cost its square.
        if (records := records + 1) > MAX_RECORDS:
            raise BadInput(f"TLS greeting in more than {MAX_RECORDS} records")
        if data[place] != _HANDSHAKE:
            raise BadInput("no TLS")
        header = data[place : place + 5]
        if len(header) < 5:
            break
        size = int.from_bytes(header[3:], "big")
        if header[1] != 3 or not 0 < size <= _MAX_RECORD_BYTES:
            raise BadInput("no TLS")
        message += data[place + 5 : place + 5 + size]
        place += 5 + size
    if message and message[0] != _CLIENT_HELLO:
        raise BadInput("no greeting of a TLS client")
    if len(message) >= 4 and _size(message) > MAX_GREETING_BYTES:
        raise BadInput(f"TLS greeting of more than {MAX_GREETING_BYTES} bytes")
    if not _is_whole(message):
        return None
    return _name_in(_Reader(bytes(message[4 : 4 + _size(message)])))


def _size(message: bytearray) -> int:
    return int.from_bytes(message[1:4], "big")


def _is_whole(message: bytearray) -> bool:
    return len(message) >= 4 and len(message) >= 4 + _size(message)


class _Reader:
    """Takes bytes off the front. Raises `BadInput` when there are too few."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._place : self._place + count]
        if len(taken) != count:
            raise BadInput("TLS greeting is cut short")
        self._place += count
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Take what a length of `size` bytes says."""
        return self.take(self.number(size))

    @property
    def left(self) -> bool:
        return self._place < len(self._data)


def _name_in(hello: _Reader) -> str:
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    if not hello.left:
        return ""
    extensions = _Reader(hello.vector(2))
    while extensions.left:
        kind, body = extensions.number(2), _Reader(extensions.vector(2))
        if kind == _SERVER_NAME:
            names = _Reader(body.vector(2))
            while names.left:
                kind, name = names.number(1), names.vector(2)
                if kind == _HOST_NAME:
                    return name.decode("ascii", "replace").lower()
    return ""
