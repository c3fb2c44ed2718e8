"""Requests with a second one hidden in them, for servers that disagree with a proxy about where the first one ends.

`h1(number)` and `h2(number)` give them with a number of their own: the first asks for `/public/page.txt?NUMBER`, the
hidden one for `/smuggled-NUMBER`. Assurance 28.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Smuggle", "attacks"]

Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Smuggle:
    """One attempt: bytes of HTTP/1, or fields and a body of HTTP/2."""

    number: int
    kind: str
    raw: bytes = b""
    fields: Pairs = ()
    body: bytes = b""

    @property
    def shown(self) -> str:
        return f"{self.kind}: {self.raw or (self.fields, self.body)!r}"


# Spellings of a header that one side may take for `transfer-encoding: chunked` and the other not.
ENCODINGS = (
    b"Transfer-Encoding: chunked",
    b"TRANSFER-ENCODING: CHUNKED",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding:chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding:\x0cchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: chunked\t",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: chunk",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: cow, chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding\r\n : chunked",
    b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked",
    b"X: x\nTransfer-Encoding: chunked",
    b"X: x\rTransfer-Encoding: chunked",
    b"X: x\r\n\rTransfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-\xc4\xb0Encoding: chunked",
    b"X-Transfer-Encoding: chunked",
    b"Content-Encoding: chunked",
    b"TE: chunked",
    b"Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding",
    b"Transfer-Encoding: chunked\r\nConnection: close, transfer-encoding, content-length",
)
# Spellings of a length: `LEN` is that of all that follows.
LENGTHS = (
    b"Content-Length: 0\r\nContent-Length: LEN",
    b"Content-Length: LEN\r\nContent-Length: 0",
    b"Content-Length: 0, LEN",
    b"Content-Length: LEN, LEN",
    b"Content-Length: +LEN",
    b"Content-Length: -LEN",
    b"Content-Length: 0LEN",
    b"Content-Length: 0xLEN",
    b"Content-Length: LEN LEN",
    b"Content-Length: LEN;",
    b"Content-Length: LEN\x00",
    b"Content-Length: \x0bLEN",
    b"Content-Length : LEN",
    b"Content-Length\t: LEN",
    b"Content-Length:\r\n LEN",
    b"Content-Length: 1e1",
    b"Content-Length: 18446744073709551616",
    b"Content-Length: 99999999999999999999999999",
    b"Content-Length: ",
    b"Content-Length: LEN\r\nConnection: content-length",
    b"Content_Length: LEN",
    b"X: x\nContent-Length: LEN",
    b"X: x\rContent-Length: LEN",
    b" Content-Length: LEN",
    b"Content-Length: 0\nContent-Length: LEN",
)
# What a body in chunks may look like where one side reads it another way; `HIDDEN` is the second request.
CHUNKS = (
    b"0\r\n\r\nHIDDEN",
    b"0\n\nHIDDEN",
    b"0\r\n\nHIDDEN",
    b"0;\r\n\r\nHIDDEN",
    b"0;a=b\n\r\n\r\nHIDDEN",
    b"0;a\rb\r\n\r\nHIDDEN",
    b"0 \r\n\r\nHIDDEN",
    b" 0\r\n\r\nHIDDEN",
    b"+0\r\n\r\nHIDDEN",
    b"-0\r\n\r\nHIDDEN",
    b"0x0\r\n\r\nHIDDEN",
    b"00000000000000000000\r\n\r\nHIDDEN",
    b"10000000000000000\r\n\r\nHIDDEN",
    b"fffffffffffffffff\r\n\r\nHIDDEN",
    b"1\r\nZ\r\n0\r\n\r\nHIDDEN",
    b"1\r\nZ0\r\n\r\nHIDDEN",
    b"1\r\nZZ0\r\n\r\nHIDDEN",
    b"1\nZ\n0\n\nHIDDEN",
    b"2;\n\nZ\r\n0\r\n\r\nHIDDEN",
    b"0\r\nHost: x\r\nContent-Length: 5\r\n\r\nHIDDEN",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\nHIDDEN",
    b"0\r\n x\r\n\r\nHIDDEN",
    b"0\r\nX\r\n\r\nHIDDEN",
    b"g\r\n\r\n0\r\n\r\nHIDDEN",
    b"\r\n0\r\n\r\nHIDDEN",
    b"0\rHIDDEN",
    b"0\r\n\rHIDDEN",
    b"LEN\r\nHIDDEN\r\n0\r\n\r\n",
)
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
UPGRADES = (
    WEBSOCKET + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c21zbXNtc21zbXNtc21zbQ==",
    WEBSOCKET + b"Sec-WebSocket-Version: 777\r\nSec-WebSocket-Key: x",
    b"Connection: upgrade\r\nUpgrade: WebSocket",
    b"Upgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Connection: Upgrade\r\nUpgrade: h2c",
    b"Connection: Upgrade\r\nUpgrade: TLS/1.0",
    b"Connection: Upgrade\r\nUpgrade: connect-udp",
    b"Connection: Upgrade\r\nUpgrade: something",
    b"Connection: Upgrade\r\nUpgrade: websocket, h2c",
)


def attacks(first: int) -> list[Smuggle]:
    """Return all attempts, numbered from `first` on."""
    return [make(first + at) for at, make in enumerate(_makers())]


def _makers() -> Iterator[_Maker]:
    for encoding in ENCODINGS:
        yield _Maker("CL.TE", [encoding, b"Content-Length: LEN"], b"0\r\n\r\nHIDDEN")
        yield _Maker("CL.TE, TE first", [b"Content-Length: LEN", encoding], b"0\r\n\r\nHIDDEN")
        yield _Maker("TE.CL", [b"Content-Length: 4", encoding], b"HEX\r\nHIDDEN\r\n0\r\n\r\n")
        yield _Maker("TE alone", [encoding], b"0\r\n\r\nHIDDEN")
    for length in LENGTHS:
        yield _Maker("CL.CL", [length], b"HIDDEN")
        yield _Maker("CL.CL, GET", [length], b"HIDDEN", method=b"GET")
    for chunks in CHUNKS:
        yield _Maker("chunks", [b"Transfer-Encoding: chunked"], chunks)
        yield _Maker("chunks and a length", [b"Transfer-Encoding: chunked", b"Content-Length: LEN"], chunks)
    for upgrade in UPGRADES:
        for method in (b"GET", b"POST"):
            yield _Maker("early data after an upgrade", [upgrade], b"HIDDEN", method=method)
        yield _Maker("upgrade with a length", [upgrade, b"Content-Length: LEN"], b"HIDDEN")
        yield _Maker("upgrade in chunks", [upgrade, b"Transfer-Encoding: chunked"], b"0\r\n\r\nHIDDEN")
    for target in (b"public.test:80", b"public.test", b"/public/page.txt", b"http://public.test/"):
        yield _Maker("early data after CONNECT", [], b"HIDDEN", method=b"CONNECT", target=target)
        yield _Maker("CONNECT with a length", [b"Content-Length: LEN"], b"HIDDEN", method=b"CONNECT", target=target)
    for method in (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"):
        yield _Maker("a body where none is meant", [b"Content-Length: LEN"], b"HIDDEN", method=method)
        yield _Maker("chunks where none are meant", [b"Transfer-Encoding: chunked"], b"0\r\n\r\nHIDDEN", method=method)
    for version in (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0"):
        yield _Maker("an old version", [b"Transfer-Encoding: chunked"], b"0\r\n\r\nHIDDEN", version=version)
        yield _Maker("a length and an old version", [b"Content-Length: 0"], b"HIDDEN", version=version)
    yield _Maker("a body that waits", [b"Expect: 100-continue", b"Content-Length: LEN"], b"HIDDEN")
    yield _Maker(
        "a body that waits, wrongly", [b"Expect: 100-continue\r\nExpect: x", b"Content-Length: LEN"], b"HIDDEN"
    )
    yield _Maker("one after the other", [], b"HIDDEN", method=b"GET")  # two honest requests: the policy sees both
    for fields, body in _h2_bodies():
        yield _Maker("HTTP/2", fields=fields, body=body)


def _h2_bodies() -> Iterator[tuple[Pairs, bytes]]:
    chunked = b"0\r\n\r\nHIDDEN"
    yield ((b"content-length", b"0"),), b"HIDDEN"
    yield ((b"content-length", b"4"),), b"abcdHIDDEN"
    yield ((b"content-length", b"99999"),), b"HIDDEN"
    yield ((b"content-length", b"-1"),), b"HIDDEN"
    yield ((b"content-length", b"0"), (b"content-length", b"LEN")), b"HIDDEN"
    yield ((b"content-length", b"0,LEN"),), b"HIDDEN"
    yield ((b"transfer-encoding", b"chunked"),), chunked
    yield ((b"transfer-encoding", b"chunked"), (b"content-length", b"LEN")), chunked
    yield ((b"Transfer-Encoding", b"chunked"),), chunked
    yield ((b"transfer-encoding ", b"chunked"),), chunked
    yield ((b"transfer-encoding", b"identity"),), chunked
    yield ((b"te", b"chunked"),), chunked
    yield ((b"connection", b"transfer-encoding"), (b"transfer-encoding", b"chunked")), chunked
    yield ((b"connection", b"upgrade"), (b"upgrade", b"websocket")), b"HIDDEN"
    yield ((b"x", b"y\r\ntransfer-encoding: chunked"),), chunked
    yield ((b"x", b"y\ntransfer-encoding: chunked"),), chunked
    yield ((b"x", b"y\r\ncontent-length: 0\r\n\r\nHIDDEN"),), b""
    yield ((b"x", b"y\r\n\r\nHIDDEN"),), b""
    yield ((b"x: y\r\ntransfer-encoding", b"chunked"),), chunked
    yield ((b"x\r\n\r\nHIDDEN", b"y"),), b""
    yield ((b"transfer-encoding: chunked\r\nx", b"y"),), chunked
    yield ((b":method", b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: "),), chunked
    yield ((b":path", b"/public/page.txt?NUMBER HTTP/1.1\r\nhost: a\r\n\r\nHIDDEN"),), b""
    yield ((b":authority", b"public.test\r\n\r\nHIDDEN"),), b""
    yield ((b":method", b"CONNECT"), (b":protocol", b"websocket")), b"HIDDEN"
    yield ((b":method", b"CONNECT"),), b"HIDDEN"
    yield ((b":method", b"GET"),), b"HIDDEN"
    yield ((b":method", b"HEAD"),), b"HIDDEN"
    yield ((b"expect", b"100-continue"),), b"HIDDEN"


class _Maker:
    """An attempt before it has its number."""

    def __init__(
        self,
        kind: str,
        lines: list[bytes] | None = None,
        body: bytes = b"",
        *,
        method: bytes = b"POST",
        target: bytes = b"/public/page.txt?NUMBER",
        version: bytes = b"HTTP/1.1",
        fields: Pairs | None = None,
    ) -> None:
        self._kind, self._body, self._fields = kind, body, fields
        self._head = b"\r\n".join((b" ".join((method, target, version)), b"Host: public.test", *(lines or ())))

    def __call__(self, number: int) -> Smuggle:
        hidden = b"GET /smuggled-%d HTTP/1.1\r\nHost: public.test\r\n\r\n" % number

        def filled(text: bytes, length: int) -> bytes:
            for name, value in (
                (b"HIDDEN", hidden),
                (b"NUMBER", b"%d" % number),
                (b"HEX", b"%x" % len(hidden)),
                (b"LEN", b"%d" % length),
            ):
                text = text.replace(name, value)
            return text

        body = filled(self._body, len(hidden))
        if self._fields is None:
            return Smuggle(number, self._kind, raw=filled(self._head, len(body)) + b"\r\n\r\n" + body)
        usual = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": b"/public/page.txt?%d" % number,
            b":authority": b"public.test",
        }
        own = [(name, filled(value, len(body))) for name, value in self._fields]
        own = [(filled(name, len(body)), value) for name, value in own]
        pseudo = {**usual, **{name: value for name, value in own if name.startswith(b":")}}
        rest = tuple((name, value) for name, value in own if not name.startswith(b":"))
        return Smuggle(number, self._kind, fields=(*pseudo.items(), *rest), body=body)
