"""Clients that send what they are told to, right or wrong, and take down all that comes back."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

SECONDS = 3.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Fields = Iterable[tuple[bytes, bytes]]


def send_h1(sock: socket.socket, raw: bytes, *, answers: int = 0, seconds: float = SECONDS) -> bytes:
    """Send bytes and return what comes back: all, until the other side closes or says nothing for a while.

    With `answers` it is enough to have that many whole ones: a proxy that refuses a request closes a second later.
    """
    sock.settimeout(seconds)
    found = b""
    try:
        sock.sendall(raw)
        while not (answers and _whole(found) >= answers) and (data := sock.recv(65536)):
            found += data
    except OSError:
        return found
    return found


def _whole(data: bytes) -> int:
    """Return how many whole answers `data` holds, as far as their length is written in front."""
    count = 0
    while found := re.search(rb"\A(HTTP/1[^\r\n]*\r\n.*?)\r\n\r\n", data, re.DOTALL):
        length = re.search(rb"\r\ncontent-length: (\d+)", found[1], re.IGNORECASE)
        end = found.end() + (int(length[1]) if length else 0)
        if len(data) < end or (length is None and b"\r\ntransfer-encoding:" in found[1].lower()):
            break
        count, data = count + 1, data[end:]
    return count


@dataclass
class H2Answer:
    """What came back on one stream."""

    status: int = 0  # 0: no answer
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    reset: bool = False  # the stream or the connection was ended by an error


class RawH2:
    """One HTTP/2 connection whose frames are ours to write."""

    def __init__(self, sock: socket.socket, *, seconds: float = SECONDS) -> None:
        self._sock = sock
        self._sock.settimeout(seconds)
        self._encoder, self._decoder = Encoder(), Decoder()
        self._stream = -1
        self._buffer = b""
        self._sock.sendall(_PREFACE + SettingsFrame(0).serialize())

    def ask(self, fields: Fields, body: bytes = b"", *, parts: int = 1) -> H2Answer:
        """Send one request and return its answer. With `parts` above 1 the body goes in as many frames."""
        self._stream += 2
        head = HeadersFrame(self._stream, self._encoder.encode(list(fields)))
        head.flags.add("END_HEADERS")
        if not body:
            head.flags.add("END_STREAM")
        frames = [head]
        step = -(-len(body) // parts) or 1
        frames += [DataFrame(self._stream, body[at : at + step]) for at in range(0, len(body), step)]
        frames[-1].flags.add("END_STREAM")
        answer = H2Answer()
        try:
            self._sock.sendall(b"".join(frame.serialize() for frame in frames))
            while not self._read(answer):
                continue
        except OSError:
            answer.reset = True
        return answer

    def _read(self, answer: H2Answer) -> bool:
        """Take one frame; return whether the answer is whole, or there will be none."""
        header = self._exactly(9)
        frame, length = Frame.parse_frame_header(memoryview(header))
        frame.parse_body(memoryview(self._exactly(length)))
        if isinstance(frame, GoAwayFrame):
            answer.reset = True
            return True
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self._sock.sendall(SettingsFrame(0, flags=["ACK"]).serialize())
        if isinstance(frame, HeadersFrame):
            fields = tuple(self._decoder.decode(frame.data, raw=True))
            if frame.stream_id == self._stream:
                answer.fields += fields
                answer.status = answer.status or int(dict(fields).get(b":status", b"0"))
        if frame.stream_id != self._stream:
            return False
        if isinstance(frame, RstStreamFrame):
            answer.reset = True
            return True
        if isinstance(frame, DataFrame):
            answer.body += frame.data
        return "END_STREAM" in frame.flags

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionError("the connection is closed")
            self._buffer += data
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found
