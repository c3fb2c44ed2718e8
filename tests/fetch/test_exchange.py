"""Whatever a server says is an answer within bounds, or a `FetchError`: no other error, and no end of memory."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.fetch.errors import FetchError
from lateen.fetch.exchange import Answer, exchange
from lateen.fetch.urls import parse_url

MAX_BYTES = 64
_PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 302 Found\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 99999 x\r\n",
        b"HTTP/2 200\r\n",
        b"content-length: 5\r\n",
        b"content-length: 99999999999999999999\r\n",
        b"content-length: 5, 5\r\n",
        b"content-length: +5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"content-encoding: br\r\n",
        b" folded\r\n",
        b": empty\r\n",
        b"x: \xff\x00\r\n",
        b"\r\n",
        b"\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"hello",
        b"x" * 100,
    ]
)


class _Writer:
    def write(self, data: bytes) -> None:
        assert data.startswith(b"GET /keys HTTP/1.1\r\n")

    async def drain(self) -> None:
        await asyncio.sleep(0)


async def _exchanged(said: bytes) -> Answer | FetchError:
    reader = asyncio.StreamReader()
    reader.feed_data(said)
    reader.feed_eof()
    writer: Any = _Writer()
    try:
        return await exchange(
            reader, cast("asyncio.StreamWriter", writer), parse_url("http://a.test/keys"), max_bytes=MAX_BYTES
        )
    except FetchError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(_PIECES | st.binary(max_size=8), max_size=10))
def test_whatever_is_said_is_an_answer_or_a_fetch_error(pieces: list[bytes]) -> None:
    found = asyncio.run(_exchanged(b"".join(pieces)))
    if isinstance(found, Answer):
        assert len(found.body) <= MAX_BYTES
        assert 200 <= found.status <= 999
    else:
        assert found.reason in ("malformed", "too-large")
