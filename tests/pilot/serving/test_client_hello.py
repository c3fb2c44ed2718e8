"""Reading the name in a TLS greeting: real ones, spread over records, cut, changed."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.errors import BadInput
from lateen.pilot.serving.client_hello import MAX_GREETING_BYTES, MAX_RECORDS, greeted_name


def greeting(name: str | None) -> bytes:
    """Return what a real client says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


NAMED, NAMELESS = greeting("Join.lateen.local"), greeting(None)


def spread(data: bytes, size: int) -> bytes:
    """Return a greeting in records of at most `size` bytes."""
    message = data[5:]
    parts = [message[place : place + size] for place in range(0, len(message), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


def test_real_greetings() -> None:
    assert greeted_name(NAMED) == "join.lateen.local"
    assert greeted_name(NAMELESS) == ""


@given(st.integers(len(NAMED) // MAX_RECORDS + 1, 700), st.binary(max_size=50))
def test_spread_and_followed_by_anything(size: int, more: bytes) -> None:
    assert greeted_name(spread(NAMED, size) + more) == "join.lateen.local"


@given(st.integers(0, len(NAMED) - 1))
def test_a_beginning_wants_more(length: int) -> None:
    assert greeted_name(NAMED[:length]) is None


@given(st.integers(0, len(NAMED) - 1), st.integers(0, 255))
def test_a_changed_byte_fails_in_order(place: int, value: int) -> None:
    changed = NAMED[:place] + bytes([value]) + NAMED[place + 1 :]
    try:
        name = greeted_name(changed)
    except BadInput:
        name = None
    assert name is None or isinstance(name, str)


@given(st.binary(max_size=200))
def test_noise_fails_in_order(data: bytes) -> None:
    try:
        name = greeted_name(b"\x16\x03\x01" + data)
    except BadInput:
        name = None
    assert name in (None, "")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\x80\x2e\x01\x00\x02", id="ssl-2"),
        pytest.param(b"\x16\x02\x00\x00\x05hello", id="other-version"),
        pytest.param(b"\x16\x03\x01\x00\x00", id="empty-record"),
        pytest.param(b"\x16\x03\x01\x40\x01", id="long-record"),
        pytest.param(spread(b"\x16\x03\x01\x00\x00\x01\x00\x7f\xff" + bytes(96), 1)[: 6 * 65], id="crumbs"),
        pytest.param(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", id="server"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01" + (MAX_GREETING_BYTES + 1).to_bytes(3, "big"), id="long-message"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", id="empty-message"),
        pytest.param(spread(NAMED, 100)[:105] + NAMED[:50].replace(b"\x16", b"\x17", 1), id="other-record-between"),
    ],
)
def test_what_cannot_become_a_greeting(data: bytes) -> None:
    with pytest.raises(BadInput, match="TLS"):
        greeted_name(data)
