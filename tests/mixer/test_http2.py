"""The server of Mixer's services against other people's clients: grpcio's, h2's, and bytes that nobody should send."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.certs import StrangeAuthority
from tests.fakes.proxies import make_identity

from lateen.mixer.http2.call import Call, CallFailed, Code, Stream, Unary
from lateen.mixer.http2.connection import MAX_HELD, MAX_MESSAGE, MAX_STREAMS, Connection
from lateen.mixer.http2.frames import (
    CONTINUATION,
    DATA,
    HEADERS,
    MAX_FRAME,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    changes_table,
    frame,
)
from lateen.mixer.http2.server import GrpcServer
from lateen.wire.memory_tls import server_context

END = 0x5  # END_HEADERS | END_STREAM
GOAWAY, PING, WINDOW_UPDATE, PUSH_PROMISE = 7, 6, 8, 5
ECHO, LATER, FAIL, BREAK, TELL = "/t.T/Echo", "/t.T/Later", "/t.T/Fail", "/t.T/Break", "/t.T/Tell"


class Service:
    """Methods of every kind, and what they saw."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.told: list[bytes] = []
        self.opened = self.closed = self.cancelled = 0
        self.go = asyncio.Event()

    def methods(self) -> dict[str, Unary | Stream]:
        return {
            ECHO: Unary(self._echo),
            LATER: Unary(self._later),
            FAIL: Unary(self._fail),
            BREAK: Unary(self._break),
            TELL: Stream(self._opened, self._take, self._closed),
        }

    def _echo(self, data: bytes, call: Call) -> bytes:
        self.calls.append(call)
        return data

    async def _later(self, data: bytes, call: Call) -> bytes:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return data

    def _fail(self, data: bytes, call: Call) -> bytes:
        raise CallFailed(Code.PERMISSION_DENIED, "né\n100%")

    def _break(self, data: bytes, call: Call) -> bytes:
        raise ValueError("a fault of ours")

    def _opened(self, call: Call) -> None:
        if dict(call.metadata).get("refuse"):
            raise CallFailed(Code.PERMISSION_DENIED, "not you")
        self.opened += 1

    def _take(self, data: bytes, call: Call) -> None:
        if data == b"bad":
            raise CallFailed(Code.INVALID_ARGUMENT, "bad")
        self.told.append(data)

    def _closed(self) -> None:
        self.closed += 1


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Service, str, GrpcServer]]:
    service = Service()
    server = GrpcServer(service.methods())
    address = await server.listen(f"unix:{folder}/s.sock")
    try:
        yield service, address, server
    finally:
        await server.stop(0)


@asynccontextmanager
async def calling(folder: Path) -> AsyncIterator[tuple[Service, grpc.aio.Channel]]:
    options = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]
    async with serving(folder) as (service, address, _), grpc.aio.insecure_channel(address, options=options) as channel:
        yield service, channel


async def test_calls_of_every_size_and_many_at_a_time(tmp_path: Path) -> None:
    async with calling(tmp_path) as (_, channel):
        echo = channel.unary_unary(ECHO)
        for size in (0, 1, 16_379, 16_380, 65_536, 1 << 20, MAX_MESSAGE):
            data = random.Random(size).randbytes(size)
            assert await echo(data, timeout=10) == data
        found = await asyncio.gather(*(echo(str(i).encode() * 500, timeout=10) for i in range(1000)))
        assert found == [str(i).encode() * 500 for i in range(1000)]
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await echo(b"x" * (MAX_MESSAGE + 1), timeout=10)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await echo(b"goes on", timeout=10) == b"goes on"


async def test_metadata_are_what_was_said(tmp_path: Path) -> None:
    chance = random.Random(1)
    async with calling(tmp_path) as (service, channel):
        echo = channel.unary_unary(ECHO)
        said = []
        for i in range(600):
            metadata = [("who", chance.choice(["ann", "bob", "x" * 300]))]
            if chance.random() < 0.2:
                metadata.append((f"n{chance.randrange(80)}", str(i)))
            said.append(metadata)
            await echo(b"", metadata=metadata)
        for metadata, call in zip(said, service.calls, strict=True):
            heard = [one for one in call.metadata if one[0] == "who" or one[0][0] == "n"]
            assert heard == metadata
            assert dict(call.metadata)[":path"] == ECHO


async def test_an_answer_may_take_a_while_and_others_do_not_wait(tmp_path: Path) -> None:
    async with calling(tmp_path) as (service, channel):
        later = [asyncio.ensure_future(channel.unary_unary(LATER)(b"%d" % i, timeout=10)) for i in range(20)]
        for _ in range(50):
            assert await channel.unary_unary(ECHO)(b"now", timeout=10) == b"now"
        assert not any(one.done() for one in later)
        later[0].cancel()
        for _ in range(200):
            if service.cancelled:
                break
            await asyncio.sleep(0.01)
        assert service.cancelled == 1, "who gives up is not answered"
        service.go.set()
        assert await asyncio.gather(*later[1:]) == [b"%d" % i for i in range(1, 20)]


async def test_a_call_that_fails_says_how(tmp_path: Path) -> None:
    async with calling(tmp_path) as (_, channel):
        for path, code, words in (
            (FAIL, grpc.StatusCode.PERMISSION_DENIED, "né\n100%"),
            (BREAK, grpc.StatusCode.INTERNAL, "it cannot be answered"),
            ("/t.T/Nothing", grpc.StatusCode.UNIMPLEMENTED, "there is no /t.T/Nothing"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await channel.unary_unary(path)(b"", timeout=10)
            assert (told.value.code(), told.value.details()) == (code, words)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await channel.unary_unary(ECHO)(b"x" * 100, timeout=10, compression=grpc.Compression.Gzip)
        assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_of_messages(tmp_path: Path) -> None:
    async with calling(tmp_path) as (service, channel):

        async def messages() -> AsyncIterator[bytes]:
            for i in range(500):
                yield b"%d" % i * 5000

        assert await channel.stream_unary(TELL)(messages(), timeout=20) == b""
        assert service.told == [b"%d" % i * 5000 for i in range(500)]
        assert (service.opened, service.closed) == (1, 1)
        with pytest.raises(grpc.aio.AioRpcError, match="not you"):
            await channel.stream_unary(TELL)(iter(()), metadata=[("refuse", "1")], timeout=20)
        assert (service.opened, service.closed) == (1, 1)


async def test_mutual_tls_and_who_shows_what(tmp_path: Path) -> None:
    authority = StrangeAuthority()
    server, client = make_identity(authority, "lateen-mixer", "istio-system"), make_identity(authority, "web")
    context = server_context(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=server.bundle.decode())
    context.set_alpn_protocols(["h2"])
    service = Service()
    grpc_server = GrpcServer(service.methods(), context=lambda: context)
    address = await grpc_server.listen("127.0.0.1:0")
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    writer.write(PREFACE)
    assert await reader.read(100) == b"", "who speaks no TLS is not answered"
    writer.close()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.load_verify_locations(cadata=server.bundle.decode())
    certificate, key, _ = client.write(tmp_path)
    tls.load_cert_chain(certificate, key)
    for protocols, answered in ((["h2"], True), (["http/1.1"], False)):
        tls.set_alpn_protocols(protocols)
        reader, writer = await asyncio.open_connection(*address.rsplit(":", 1), ssl=tls)
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + request(1, ECHO, b"hello"))
        try:
            found = await asyncio.wait_for(_until_end(reader), 5) if answered else await reader.read(100)
        except ConnectionError:
            found = b""
        assert (b"hello" in found) is answered
        writer.close()
    await grpc_server.stop(0)
    (call,) = service.calls
    assert call.certificate is not None
    assert call.certificate.replace(b"\n", b"") in client.certificate.replace(b"\n", b"")


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while b"grpc-status" not in found:
        more = await reader.read(1000)
        if not more:
            break
        found += more
    return found


# ---------------------------------------------------------------- without a socket


class Wire:
    """A connection whose bytes are looked at. Has the methods of a transport that are used."""

    def __init__(self, service: Service | None = None) -> None:
        self.service = service or Service()
        self.written = b""
        self.closing = False
        self.lost = 0
        self.stuck = 0  # bytes that wait, as the transport tells it
        self.connection = Connection(self.service.methods(), self._gone)
        self.connection.connection_made(self)
        self.connection.data_received(PREFACE + frame(SETTINGS, 0, 0))
        self.written = b""

    def _gone(self, _: Connection) -> None:
        self.lost += 1

    def send(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """Return the frames that come back."""
        self.written = b""
        if not self.closing:
            self.connection.data_received(data)
        return frames(self.written)

    def get_extra_info(self, _: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def close(self) -> None:
        self.closing = True

    abort = close


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def block(path: str, *more: tuple[str, str]) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), *more]
    return bytes(Encoder().encode(fields))


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


def request(stream: int, path: str, data: bytes) -> bytes:
    return frame(HEADERS, 4, stream, block(path)) + frame(DATA, 1, stream, message(data))


def statuses(found: list[tuple[int, int, int, bytes]]) -> list[int]:
    return [kind for kind, _, _, _ in found]


def test_what_is_asked_in_pieces_is_answered() -> None:
    wire = Wire()
    data = request(1, ECHO, b"hello")
    answer: list[Any] = []
    for i in range(len(data)):
        answer += wire.send(data[i : i + 1])
    assert statuses(answer) == [HEADERS, DATA, HEADERS]
    assert answer[1][3] == message(b"hello")


def test_blocks_of_headers_that_say_the_same_are_read_once() -> None:
    """Until one changes the table: then the same bytes may say something else."""
    wire, encoder, chance = Wire(), Encoder(), random.Random(1)
    said = []
    for i in range(600):
        new = f"n{i}" if chance.random() < 0.05 else chance.choice(["ann", "bob", "cy"])
        fields = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), (":authority", "a"), ("who", new)]
        said.append(tuple(fields))
        asked = frame(HEADERS, 4, 2 * i + 1, encoder.encode(fields)) + frame(DATA, 1, 2 * i + 1, message(b""))
        wire.send(asked)
    calls = wire.service.calls
    assert [call.metadata for call in calls] == said
    assert len({id(call) for call in calls}) < 200


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([":method", ":path", "who", "x" * 40]),
            st.one_of(st.sampled_from(["POST", "/", "ann"]), st.text(st.characters(codec="ascii"), max_size=200)),
            st.sampled_from(["table", "plain", "never"]),
        ),
        max_size=6,
    )
)
def test_whether_a_block_changes_the_table(fields: list[tuple[str, str, str]]) -> None:
    """Held to a decoder's own table; where it does not know it says yes."""
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode([("who", "ann"), (":path", "/x")]))
    written = b"".join(
        encoder.encode([(name, value)])
        if how == "table"
        else b"\0" + literal(name) + literal(value)
        if how == "plain"
        else b"\x10" + literal(name) + literal(value)
        for name, value, how in fields
    )
    before = list(decoder.header_table.dynamic_entries)
    decoder.decode(written)
    assert changes_table(written) or list(decoder.header_table.dynamic_entries) == before


def literal(text: str) -> bytes:
    size = len(text.encode())
    head = bytes((size,)) if size < 127 else bytes((127, (size - 127) % 128 | (128 if size - 127 >= 128 else 0)))
    return head + (bytes(((size - 127) // 128,)) if size - 127 >= 128 else b"") + text.encode()


@pytest.mark.parametrize(
    ("block", "changes"),
    [
        (b"\x83\x86", False),
        (b"\x04\x01/", False),
        (b"\x44\x01/", True),
        (b"\x20", True),
        (b"\x04\x05/", True),
        (b"", False),
    ],
)
def test_what_changes_a_table(block: bytes, changes: bool) -> None:
    assert changes_table(block) is changes


def test_padding_priorities_trailers_and_headers_in_parts() -> None:
    wire = Wire()
    whole = block(ECHO)
    padded = frame(HEADERS, 0x4 | 0x8 | 0x20, 1, b"\x03" + b"\0\0\0\0\x10" + whole + b"\0\0\0")
    body = message(b"hello")
    data = (
        padded + frame(DATA, 0x8, 1, b"\x02" + body + b"\0\0") + frame(HEADERS, END, 1, Encoder().encode([("a", "b")]))
    )
    assert wire.send(data)[1][3] == body
    parts = (
        frame(HEADERS, 0, 3, whole[:5]) + frame(CONTINUATION, 0, 3, whole[5:9]) + frame(CONTINUATION, 4, 3, whole[9:])
    )
    assert wire.send(parts + frame(DATA, 1, 3, body))[1][3] == body


def test_pings_and_settings_are_acknowledged() -> None:
    wire = Wire()
    assert wire.send(frame(PING, 0, 0, b"12345678")) == [(PING, 1, 0, b"12345678")]
    assert wire.send(frame(PING, 1, 0, b"12345678")) == []
    assert wire.send(frame(SETTINGS, 0, 0, b"\0\x09\0\0\0\0")) == [(SETTINGS, 1, 0, b"")]
    assert wire.send(frame(0x77, 0xFF, 9, b"whatever")) == [], "what is not known is passed over"


def test_an_answer_waits_for_the_window() -> None:
    """As a client with a window of ten bytes sees it, and one that widens it later."""
    wire = Wire()
    wire.send(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a"))
    found = wire.send(request(1, ECHO, b"x" * 100) + request(3, ECHO, b"y" * 3))
    assert [(kind, stream, len(data)) for kind, _, stream, data in found if kind == DATA] == [(DATA, 1, 10)]
    found = wire.send(frame(WINDOW_UPDATE, 0, 1, (50).to_bytes(4, "big")))
    assert [len(data) for kind, _, _, data in found] == [50]
    found = wire.send(frame(SETTINGS, 0, 0, b"\0\x04\0\0\x10\0"))
    assert sum(len(data) for kind, _, _, data in found if kind == DATA) == 45 + 8
    assert [stream for kind, flags, stream, _ in found if kind == HEADERS and flags & 1] == [1, 3]


def test_an_answer_that_is_not_wanted_any_more_holds_up_no_other() -> None:
    wire = Wire()
    wire.send(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a"))
    wire.send(request(1, ECHO, b"x" * 100) + request(3, ECHO, b"y"))
    found = wire.send(frame(RST_STREAM, 0, 1, b"\0\0\0\x08") + frame(PING, 0, 0, b"12345678"))
    found += wire.send(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x10"))
    assert [stream for kind, _, stream, _ in found if kind == DATA] == [3]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", 6),  # a frame of more than 16 KiB
        (frame(DATA, 0, 0, b"x"), 1),
        (frame(DATA, 0, 5, b"x"), 1),
        (frame(HEADERS, END, 2, block(ECHO)), 1),
        (frame(HEADERS, END, 1, b"\xff\xff\xff\xff\x0f"), 9),
        (frame(HEADERS, END, 1, b"\x40\x01a"), 9),
        (frame(HEADERS, 0x4 | 0x8, 1, b"\xff"), 1),
        (frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, b"12345678"), 1),
        (frame(CONTINUATION, 4, 1, b""), 1),
        (frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"\0" * 16_000) * 5, 11),
        (frame(PUSH_PROMISE, 0, 1, b"\0\0\0\x02"), 1),
        (frame(RST_STREAM, 0, 7, b"\0\0\0\x08"), 1),
        (frame(PING, 0, 0, b"short"), 6),
        (frame(SETTINGS, 0, 0, b"odd"), 6),
        (frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"), 3),
        (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), 3),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3),
        (frame(WINDOW_UPDATE, 0, 0, b"\0"), 6),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(data: bytes, code: int) -> None:
    wire = Wire()
    found = wire.send(data)
    assert wire.closing
    assert found[-1][0] == GOAWAY
    assert int.from_bytes(found[-1][3][4:8], "big") == code


def test_what_is_no_http_2_is_told_so() -> None:
    wire = Wire()
    other = Connection(wire.service.methods(), wire._gone)
    other.connection_made(wire)
    wire.written = b""
    other.data_received(b"GET / HTTP/1.1\r\n")
    assert wire.closing
    assert frames(wire.written)[-1][0] == GOAWAY


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (frame(HEADERS, 4, 1, block(ECHO)) + frame(DATA, 1, 1, b""), "3"),
        (frame(HEADERS, END, 1, block(ECHO)), "3"),
        (frame(HEADERS, 4, 1, block(ECHO)) + frame(DATA, 1, 1, message(b"a") + message(b"b")), "3"),
        (frame(HEADERS, 4, 1, block(ECHO)) + frame(DATA, 1, 1, b"\x01" + message(b"a")[1:]), "12"),
        (frame(HEADERS, 4, 1, block(ECHO)) + frame(DATA, 1, 1, b"\0\xff\xff\xff\xffa"), "8"),
        (frame(HEADERS, 4, 1, block(TELL)) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xffa"), "8"),
        (frame(HEADERS, 4, 1, block(TELL)) + frame(DATA, 0, 1, message(b"bad")), "3"),
    ],
)
def test_what_a_call_does_wrong_ends_that_call(data: bytes, status: str) -> None:
    wire = Wire()
    found = wire.send(data)
    assert not wire.closing
    assert b"grpc-status" + bytes((len(status),)) + status.encode() in found[0][3]
    assert wire.send(request(9, ECHO, b"goes on"))[1][3] == message(b"goes on")
    assert wire.service.opened == wire.service.closed


def test_calls_in_flight_are_bounded() -> None:
    async def work() -> None:
        wire = Wire()
        found = []
        for i in range(MAX_STREAMS + 3):
            found += wire.send(request(2 * i + 1, LATER, b""))
        assert [(kind, int.from_bytes(data, "big")) for kind, _, _, data in found] == [(RST_STREAM, 7)] * 3
        await asyncio.sleep(0.01)
        wire.connection.connection_lost(None)
        await asyncio.sleep(0.01)
        assert (wire.service.cancelled, wire.lost) == (MAX_STREAMS, 1)

    asyncio.run(work())


def test_answers_that_wait_for_a_window_are_bounded() -> None:
    """In number with the calls that are open, and in bytes: who shuts its window has nothing kept without end."""
    wire = Wire()
    wire.send(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\0"))
    found = []
    for i in range(MAX_STREAMS + 3):
        found += wire.send(request(2 * i + 1, ECHO, b"x"))
    assert [int.from_bytes(data, "big") for kind, _, _, data in found if kind == RST_STREAM] == [7] * 3
    assert not wire.closing

    wire = Wire()
    wire.send(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\0"))
    for i in range(8):  # 8 MiB, and their beginnings
        assert not wire.closing
        parts = [frame(DATA, 0, 2 * i + 1, part) for part in _parts(message(b"x" * (1 << 20)))]
        wire.send(frame(HEADERS, 4, 2 * i + 1, block(ECHO)) + b"".join(parts) + frame(DATA, 1, 2 * i + 1))
    assert wire.closing


def _parts(data: bytes) -> list[bytes]:
    return [data[at : at + MAX_FRAME] for at in range(0, len(data), MAX_FRAME)]


def test_messages_that_do_not_end_are_bounded_together() -> None:
    wire = Wire()
    part, sent, found = b"\0\0\x40\0\0" + b"x" * (MAX_FRAME - 5), 0, []
    for stream in range(1, 2 * MAX_STREAMS, 2):
        found = wire.send(frame(HEADERS, 4, stream, block(ECHO)) + frame(DATA, 0, stream, part) * 64)
        sent += 64 * MAX_FRAME
        if wire.closing:
            break
    assert wire.closing
    assert found[-1][0] == GOAWAY
    assert int.from_bytes(found[-1][3][4:8], "big") == 11
    assert MAX_HELD < sent <= MAX_HELD + (9 << 20)


def test_long_blocks_of_headers_are_not_kept() -> None:
    wire, encoder = Wire(), Encoder()
    wire.send(request(1, ECHO, b""))
    for i, length in enumerate((100, 100, 2000, 2000)):
        fields = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), ("who", "x" * length)]
        said = bytes(encoder.encode([NeverIndexedHeaderTuple(*one) for one in fields]))
        wire.send(frame(HEADERS, 4, 2 * i + 3, said) + frame(DATA, 1, 2 * i + 3, message(b"")))
    _, short, again, long, anew = wire.service.calls
    assert short is again
    assert long is not anew
    assert long.metadata == anew.metadata


def test_who_leaves_sends_what_waits_for_a_window_first() -> None:
    wire = Wire()
    wire.send(frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a"))
    wire.send(request(1, ECHO, b"x" * 20))
    wire.connection.leave()
    assert not wire.closing
    found = wire.send(frame(WINDOW_UPDATE, 0, 1, (50).to_bytes(4, "big")))
    assert [(kind, len(data)) for kind, _, _, data in found if kind == DATA] == [(DATA, 15)]
    assert wire.closing


def test_who_does_not_read_is_left() -> None:
    wire = Wire()
    wire.stuck = 9 << 20
    wire.send(request(1, ECHO, b"x"))
    assert wire.closing


def test_windows_are_given_back() -> None:
    wire = Wire()
    found = wire.send(frame(HEADERS, 4, 1, block(TELL)))
    part = frame(DATA, 0, 1, message(b"x" * 16_000))
    given = {0: 0, 1: 0}
    for _ in range(1200):
        for kind, _, stream, data in wire.send(part):
            assert kind == WINDOW_UPDATE
            given[stream] += int.from_bytes(data, "big")
    sent = 1200 * 16_005
    assert found == []
    assert sent - (1 << 19) < given[1] <= sent
    assert sent - (8 << 20) < given[0] <= sent


async def test_who_leaves_answers_what_was_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, address, server), grpc.aio.insecure_channel(address) as channel:
        asked = asyncio.ensure_future(channel.unary_unary(LATER)(b"last", timeout=10))
        await channel.unary_unary(ECHO)(b"", timeout=10)
        ending = asyncio.create_task(server.stop(5))
        await asyncio.sleep(0.1)
        service.go.set()
        assert await asked == b"last"
        await ending


async def test_another_clients_own_frames(tmp_path: Path) -> None:
    """h2's, which writes headers and windows as it likes."""
    async with serving(tmp_path) as (_, address, _):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        client.initiate_connection()
        answers: dict[int, bytes] = {}
        ended: dict[int, list[Any]] = {}
        for stream in (1, 3, 5):
            headers = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), (":authority", "a"), ("x", "y" * 200)]
            client.send_headers(stream, headers)
            client.send_data(stream, message(b"%d" % stream * 1000), end_stream=True)
        writer.write(client.data_to_send())
        while len(ended) < 3:
            for event in client.receive_data(await asyncio.wait_for(reader.read(65_536), 5)):
                if isinstance(event, h2.events.DataReceived):
                    answers[event.stream_id] = answers.get(event.stream_id, b"") + event.data
                elif isinstance(event, h2.events.TrailersReceived):
                    ended[event.stream_id] = list(event.headers)
            writer.write(client.data_to_send())
        assert answers == {stream: message(b"%d" % stream * 1000) for stream in (1, 3, 5)}
        assert all((b"grpc-status", b"0") in [(bytes(a), bytes(b)) for a, b in one] for one in ended.values())
        writer.close()


PIECES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        frame,
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 9),
        st.one_of(st.binary(max_size=40), st.just(block(ECHO)), st.just(block(TELL)), st.just(message(b"abc"))),
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_whatever_comes_is_taken_or_ends_the_connection(pieces: list[bytes]) -> None:
    wire = Wire()
    for piece in pieces:
        wire.send(piece)
    if not wire.closing and not wire.connection._buffer and wire.connection._partial is None:
        found = wire.send(request(2_001, ECHO, b"hello"))
        assert any(data == message(b"hello") for _, _, _, data in found) or wire.connection._unsent
    wire.connection.connection_lost(None)
    assert wire.service.opened == wire.service.closed
