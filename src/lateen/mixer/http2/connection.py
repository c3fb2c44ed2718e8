"""One connection: frames in, calls answered, frames out.

Everything that comes is untrusted: frames, headers and messages are bounded, calls in flight too, and so is what waits
to be written to somebody who does not read. What breaks the protocol ends the connection; what a call does wrong ends
that call. What can be answered at once is, in the same turn of the loop, and all answers of one read are one write.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog
from hpack import Decoder
from hpack.exceptions import HPACKError

from lateen.mixer.http2.call import Call, CallFailed, Code, Methods, Stream, Unary
from lateen.mixer.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    MAX_FRAME,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    answer_frames,
    changes_table,
    failure_frame,
    frame,
    without_padding,
)

__all__ = ["MAX_HELD", "MAX_MESSAGE", "MAX_STREAMS", "Connection"]

MAX_MESSAGE: Final = 4 << 20
MAX_STREAMS: Final = 2048
MAX_HEADERS: Final = 64 * 1024
WINDOW: Final = 1 << 20  # of a stream, and half of it is given back at a time
CONNECTION_WINDOW: Final = 16 << 20
MAX_WAITING: Final = 8 << 20  # bytes to write, to somebody who does not read
MAX_HELD: Final = 64 << 20  # bytes of all calls that are not answered yet
KEPT_HEADERS: Final = 1024
KEPT_BLOCK: Final = 1024  # bytes of a block of headers that is kept
FIRST_WINDOW: Final = 65_535  # everybody's, before anything is said
_MAX_WINDOW: Final = (1 << 31) - 1
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = 0, 1, 3, 5, 6, 7
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11
_SETTINGS: Final = b"".join(
    number.to_bytes(2, "big") + value.to_bytes(4, "big")
    for number, value in ((3, MAX_STREAMS), (4, WINDOW), (6, MAX_HEADERS))
)
_HELLO: Final = frame(SETTINGS, 0, 0, _SETTINGS) + frame(
    WINDOW_UPDATE, 0, 0, (CONNECTION_WINDOW - FIRST_WINDOW).to_bytes(4, "big")
)

log = structlog.get_logger(__name__)


class _Broken(Exception):
    """The connection cannot go on."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(slots=True)
class _Open:
    """A call that is not answered yet."""

    method: Unary | Stream
    call: Call
    buffer: bytearray = field(default_factory=bytearray)
    held: int = 0  # bytes of it that are here: all of a message, and of a stream what is not handed on
    ended: bool = False  # the caller has said everything
    unreturned: int = 0  # bytes of its window that were not given back
    task: asyncio.Future[bytes] | None = None


class Connection(asyncio.Protocol):
    """See above. `gone` is called when it is over."""

    def __init__(self, methods: Methods, gone: Callable[[Connection], None]) -> None:
        self.over = False
        self._methods = methods
        self._gone = gone
        self._transport: Any = None
        self._certificate: bytes | None = None
        self._buffer = bytearray()
        self._greeted = False
        self._out: list[bytes] = []
        self._decoder = Decoder(max_header_list_size=MAX_HEADERS)
        self._calls: dict[bytes, Call] = {}  # header blocks that change no table -> what they say
        self._partial: tuple[int, int, bytearray] | None = None  # a block of headers that goes on
        self._open: dict[int, _Open] = {}
        self._last = 0
        self._leaving = False
        self._unreturned = 0
        self._window = FIRST_WINDOW  # what the other side takes
        self._stream_window = FIRST_WINDOW
        self._windows: dict[int, int] = {}  # of streams whose window is not the first one
        self._unsent: deque[tuple[int, bytearray, bytes]] = deque()  # stream, data, trailers: for want of a window

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            shown = tls.getpeercert(binary_form=True)
            self._certificate = ssl.DER_cert_to_PEM_cert(shown).encode() if shown else b""
            if tls.selected_alpn_protocol() != "h2":
                transport.abort()
                return
        self._out.append(_HELLO)
        self._write()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._read()
        except _Broken as broken:
            self._end(broken.code, str(broken))
        self._write()

    def connection_lost(self, _: Exception | None) -> None:
        self.over = True
        calls, self._open = list(self._open.values()), {}
        for call in calls:
            self._forget(call)
        self._gone(self)

    def leave(self) -> None:
        """Take no more calls; end when those that are open are answered."""
        self._leaving = True
        if self._transport is not None and not self._transport.is_closing():
            self._out.append(frame(GOAWAY, 0, 0, self._last.to_bytes(4, "big") + NO_ERROR.to_bytes(4, "big")))
            self._write()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def busy(self) -> bool:
        """Answers are owed."""
        return bool(self._unsent) or any(isinstance(one.method, Unary) for one in self._open.values())

    def _write(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
            unsent = sum(len(body) for _, body, _ in self._unsent)  # nothing, unless windows are shut
            if self._transport.get_write_buffer_size() + unsent > MAX_WAITING:
                log.warning("connection ended", reason="the other side does not read")
                self._transport.abort()
        self._out.clear()
        if self._leaving and not self.busy and not self._transport.is_closing():
            self._transport.close()

    def _end(self, code: int, why: str) -> None:
        log.warning("connection ended", reason=why)
        self._out.append(frame(GOAWAY, 0, 0, self._last.to_bytes(4, "big") + code.to_bytes(4, "big")))
        self._write()
        self._transport.close()

    # ---- frames

    def _read(self) -> None:
        buffer, at = self._buffer, 0
        if not self._greeted:
            if not PREFACE.startswith(bytes(buffer[: len(PREFACE)])):
                raise _Broken(PROTOCOL_ERROR, "no HTTP/2")
            if len(buffer) < len(PREFACE):
                return
            self._greeted, at = True, len(PREFACE)
        end = len(buffer)
        while end - at >= 9 and not self._transport.is_closing():
            size = int.from_bytes(buffer[at : at + 3], "big")
            if size > MAX_FRAME:
                raise _Broken(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            if end - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFFFFFF
            payload = bytes(buffer[at + 9 : at + 9 + size])
            at += 9 + size
            if self._partial is not None and (kind != CONTINUATION or stream != self._partial[0]):
                raise _Broken(PROTOCOL_ERROR, "headers that do not end")
            self._frame(kind, flags, stream, payload)
        del buffer[:at]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 0:  # DATA
                self._data(flags, stream, payload)
            case 1:  # HEADERS
                try:
                    block = without_padding(flags, payload, headers=True)
                except ValueError as error:
                    raise _Broken(PROTOCOL_ERROR, str(error)) from None
                if flags & END_HEADERS:
                    self._headers(stream, flags, block)
                else:
                    self._partial = (stream, flags, bytearray(block))
            case 9:  # CONTINUATION
                if self._partial is None:
                    raise _Broken(PROTOCOL_ERROR, "headers that go on without a beginning")
                first, started, whole = self._partial
                whole += payload
                if len(whole) > MAX_HEADERS:
                    raise _Broken(ENHANCE_YOUR_CALM, f"headers of more than {MAX_HEADERS} bytes")
                if flags & END_HEADERS:
                    self._partial = None
                    self._headers(first, started, bytes(whole))
            case 3:  # RST_STREAM
                if stream > self._last:
                    raise _Broken(PROTOCOL_ERROR, "a call is broken off that never began")
                found = self._open.pop(stream, None)
                self._windows.pop(stream, None)
                if self._unsent:
                    self._unsent = deque(waiting for waiting in self._unsent if waiting[0] != stream)
                if found is not None:
                    self._forget(found)
            case 4:  # SETTINGS
                self._settings(flags, payload)
            case 5:  # PUSH_PROMISE
                raise _Broken(PROTOCOL_ERROR, "a client promises nothing")
            case 6:  # PING
                if len(payload) != 8:
                    raise _Broken(FRAME_SIZE_ERROR, "a ping is of eight bytes")
                if not flags & ACK:
                    self._out.append(frame(PING, ACK, 0, payload))
            case 8:  # WINDOW_UPDATE
                self._widen(stream, payload)

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise _Broken(FRAME_SIZE_ERROR, "settings are of six bytes each")
        for at in range(0, len(payload), 6):
            number, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if number == 4:
                if value > _MAX_WINDOW:
                    raise _Broken(FLOW_CONTROL_ERROR, "a window that is too wide")
                change, self._stream_window = value - self._stream_window, value
                self._windows = {stream: size + change for stream, size in self._windows.items()}
        self._out.append(frame(SETTINGS, ACK, 0))
        self._flush()

    def _widen(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _Broken(FRAME_SIZE_ERROR, "a window is of four bytes")
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream == 0:
            self._window += more
            if more == 0 or self._window > _MAX_WINDOW:
                raise _Broken(FLOW_CONTROL_ERROR, "a window that is too wide, or not widened")
        elif stream in self._open or any(stream == waiting for waiting, _, _ in self._unsent):
            # Of others it means nothing any more.
            size = self._windows.get(stream, self._stream_window) + more
            if size > _MAX_WINDOW:
                raise _Broken(FLOW_CONTROL_ERROR, "a window that is too wide")
            self._windows[stream] = size
        self._flush()

    # ---- calls

    def _headers(self, stream: int, flags: int, block: bytes) -> None:
        call = self._call(block)
        known = self._open.get(stream)
        if known is not None:
            if not flags & END_STREAM or known.ended:
                raise _Broken(PROTOCOL_ERROR, "headers in the middle of a call")
            self._ended(stream, known)
            return
        if stream % 2 == 0:
            raise _Broken(PROTOCOL_ERROR, "a call with an even number")
        if stream <= self._last:
            return  # of one that is over
        self._last = stream
        if self._leaving or len(self._open) + len(self._unsent) >= MAX_STREAMS:
            self._out.append(frame(RST_STREAM, 0, stream, REFUSED_STREAM.to_bytes(4, "big")))
            return
        fields = dict(call.metadata)
        method = self._methods.get(fields.get(":path", ""))
        if method is None or fields.get(":method") != "POST":
            self._fail(stream, CallFailed(Code.UNIMPLEMENTED, f"there is no {fields.get(':path', '')}"))
            return
        found = self._open[stream] = _Open(method, call)
        if isinstance(method, Stream):
            try:
                method.opened(call)
            except CallFailed as failed:
                del self._open[stream]
                self._fail(stream, failed)
                return
        if flags & END_STREAM:
            self._ended(stream, found)

    def _call(self, block: bytes) -> Call:
        """Return what a block of headers says. Until the table changes, the same bytes say the same."""
        found = self._calls.get(block)
        if found is not None:
            return found
        try:
            headers = self._decoder.decode(block)
        except HPACKError as error:
            raise _Broken(COMPRESSION_ERROR, f"headers that cannot be read: {error}") from None
        call = Call(tuple((str(name), str(value)) for name, value in headers), self._certificate)
        if changes_table(block):
            self._calls.clear()
        elif len(self._calls) < KEPT_HEADERS and len(block) <= KEPT_BLOCK:
            self._calls[block] = call
        return call

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        self._unreturned += len(payload)
        if self._unreturned >= CONNECTION_WINDOW // 2:
            if sum(one.held for one in self._open.values()) > MAX_HELD:
                raise _Broken(ENHANCE_YOUR_CALM, f"calls of more than {MAX_HELD} bytes at a time")
            self._out.append(frame(WINDOW_UPDATE, 0, 0, self._unreturned.to_bytes(4, "big")))
            self._unreturned = 0
        if stream > self._last or stream == 0:
            raise _Broken(PROTOCOL_ERROR, "data of a call that never began")
        found = self._open.get(stream)
        if found is None:
            return  # of one that is over
        if found.ended:
            raise _Broken(STREAM_CLOSED, "data behind the end of a call")
        try:
            found.buffer += without_padding(flags, payload)
        except ValueError as error:
            raise _Broken(PROTOCOL_ERROR, str(error)) from None
        found.unreturned += len(payload)
        found.held += len(payload)
        if found.unreturned >= WINDOW // 2 and not flags & END_STREAM:
            self._out.append(frame(WINDOW_UPDATE, 0, stream, found.unreturned.to_bytes(4, "big")))
            found.unreturned = 0
        if isinstance(found.method, Stream):
            self._take(stream, found)
            found.held = len(found.buffer)
        elif len(found.buffer) > MAX_MESSAGE + 5:
            self._drop(stream, CallFailed(Code.RESOURCE_EXHAUSTED, f"a message of more than {MAX_MESSAGE} bytes"))
        if flags & END_STREAM and stream in self._open:
            self._ended(stream, found)

    def _take(self, stream: int, found: _Open) -> None:
        """Hand on the messages of a stream that are there."""
        assert isinstance(found.method, Stream)
        try:
            while (message := _message(found.buffer)) is not None:
                found.method.take(message, found.call)
        except CallFailed as failed:
            self._drop(stream, failed)

    def _ended(self, stream: int, found: _Open) -> None:
        """The caller has said everything: answer."""
        found.ended = True
        if isinstance(found.method, Stream):
            del self._open[stream]
            self._forget(found)
            self._send(stream, b"")
            return
        try:
            message = _message(found.buffer)
            if message is None or found.buffer:
                raise CallFailed(Code.INVALID_ARGUMENT, "one message is wanted")
            answer = found.method.answer(message, found.call)
        except CallFailed as failed:
            self._drop(stream, failed)
            return
        except Exception:
            log.exception("call failed")
            self._drop(stream, CallFailed(Code.INTERNAL, "it cannot be answered"))
            return
        if isinstance(answer, bytes):
            del self._open[stream]
            self._send(stream, answer)
        else:
            found.task = asyncio.ensure_future(answer)
            found.task.add_done_callback(partial(self._later, stream))

    def _later(self, stream: int, task: asyncio.Future[bytes]) -> None:
        """Answer what took a while."""
        if task.cancelled():
            return
        error = task.exception()
        if self._open.pop(stream, None) is None:
            return
        if error is None:
            self._send(stream, task.result())
        elif isinstance(error, CallFailed):
            self._fail(stream, error)
        else:
            log.error("call failed", exc_info=error)
            self._fail(stream, CallFailed(Code.INTERNAL, "it cannot be answered"))
        self._write()

    def _drop(self, stream: int, failed: CallFailed) -> None:
        """Answer a call that is open by a status, whatever else its caller may have to say."""
        found = self._open.pop(stream)
        self._forget(found)
        self._fail(stream, failed)
        if not found.ended:
            self._out.append(frame(RST_STREAM, 0, stream, NO_ERROR.to_bytes(4, "big")))

    def _fail(self, stream: int, failed: CallFailed) -> None:
        self._windows.pop(stream, None)
        self._out.append(failure_frame(stream, failed.code, str(failed)))

    def _forget(self, found: _Open) -> None:
        if isinstance(found.method, Stream):
            found.method.closed()
        if found.task is not None:
            found.task.cancel()

    # ---- answers

    def _send(self, stream: int, message: bytes) -> None:
        head, body, tail = answer_frames(stream, message)
        self._out.append(head)
        size = len(body)
        if (
            not self._unsent
            and stream not in self._windows
            and size <= min(MAX_FRAME, self._window, self._stream_window)
        ):
            self._window -= size
            self._out.append(frame(DATA, 0, stream, body))
            self._out.append(tail)
            return
        self._unsent.append((stream, bytearray(body), tail))
        self._flush()

    def _flush(self) -> None:
        """Send what waited for a window, in order, as far as it goes."""
        while self._unsent:
            stream, body, tail = self._unsent[0]
            while body:
                left = min(self._window, self._windows.get(stream, self._stream_window), MAX_FRAME)
                if left <= 0:
                    return
                part = bytes(body[:left])
                del body[:left]
                self._window -= len(part)
                self._windows[stream] = self._windows.get(stream, self._stream_window) - len(part)
                self._out.append(frame(DATA, 0, stream, part))
            self._out.append(tail)
            self._windows.pop(stream, None)
            self._unsent.popleft()


def _message(buffer: bytearray) -> bytes | None:
    """Take the first message out of what came; None: it is not whole. Raises: CallFailed."""
    if len(buffer) < 5:
        return None
    if buffer[0]:
        raise CallFailed(Code.UNIMPLEMENTED, "compressed messages are not read")
    size = int.from_bytes(buffer[1:5], "big")
    if size > MAX_MESSAGE:
        raise CallFailed(Code.RESOURCE_EXHAUSTED, f"a message of {size} bytes, at most {MAX_MESSAGE} are read")
    if len(buffer) < 5 + size:
        return None
    found = bytes(buffer[5 : 5 + size])
    del buffer[: 5 + size]
    return found
