"""Mixer's end of the socketpair to the control plane: messages in, messages out, an end that ends the process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import structlog

from lateen.wire.mixer import MAX_LINE, Message, decode_message, encode_message

__all__ = ["Channel"]

BACKLOG_BYTES: Final = 1 << 20  # that may wait to be sent; a control plane that reads nothing is not waited for

log = structlog.get_logger(__name__)


class Channel:
    """Lines of JSON over one socket, from either end. Open it with `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Take over a connected socket."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE)
        return cls(reader, writer)

    def send(self, message: Message) -> bool:
        """Send a message; False: it was not, since the other end does not read."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > BACKLOG_BYTES:
            return False
        self._writer.write(encode_message(message))
        return True

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what comes until the other end closes. What cannot be read is told and passed over."""
        while True:
            try:
                line = await self._reader.readline()
            except (OSError, ValueError) as error:  # ValueError: longer than a line may be
                log.error("channel ended", reason=str(error))
                return
            if not line.endswith(b"\n"):
                return
            try:
                yield decode_message(line)
            except msgspec.MsgspecError as error:
                log.error("message not read", reason=str(error))

    def close(self) -> None:
        self._writer.close()
