"""What Mixer and the workers of adapters say to each other: msgpack, four bytes of length before each message."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

__all__ = [
    "Answer",
    "Ask",
    "Bind",
    "Bound",
    "Description",
    "Failure",
    "Fault",
    "Hello",
    "Load",
    "Parameter",
    "Reply",
    "Tell",
    "read_frame",
    "to_frame",
]

MAX_FRAME: Final = 32 << 20


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of the messages."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file, or an entry point, gives no adapter."""

    file: str
    line: int
    message: str


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    type: str
    default: str | None = None  # as it would be written; None: it must be given


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter. `kind`: "check" or "report"."""

    name: str
    kind: str
    file: str
    line: int
    doc: str  # its first line
    parameters: tuple[Parameter, ...]


# ---- to a worker


class Load(_Frame, frozen=True, kw_only=True, tag="load"):
    """The first message: what to run. `files` are paths with their texts."""

    files: tuple[tuple[str, str], ...]
    entry_points: bool


class Bind(_Frame, frozen=True, kw_only=True, tag="bind"):
    """Make parameters of an adapter, to be used by `number` from now on."""

    number: int
    kind: str
    adapter: str
    params: dict[str, Any]


class Ask(_Frame, frozen=True, kw_only=True, tag="ask"):
    number: int  # of the question
    binding: int
    values: dict[str, Any]
    seconds: float  # that there are for it


class Tell(_Frame, frozen=True, kw_only=True, tag="tell"):
    number: int
    binding: int
    rows: list[dict[str, Any]]
    seconds: float


# ---- from a worker


class Hello(_Frame, frozen=True, kw_only=True, tag="hello"):
    adapters: tuple[Description, ...]
    faults: tuple[Fault, ...]


class Bound(_Frame, frozen=True, kw_only=True, tag="bound"):
    number: int
    field: str = ""  # below `params`
    fault: str = ""  # "": it may be asked


class Answer(_Frame, frozen=True, kw_only=True, tag="answer"):
    """A verdict, or that rows were taken."""

    number: int
    allowed: bool = True
    status: int = 403
    body: str = ""
    headers: dict[str, str] = {}
    request_headers: dict[str, str] = {}
    ttl: float = 0.0


class Failure(_Frame, frozen=True, kw_only=True, tag="failure"):
    """`how`: "error", "timeout" or "wrong"."""

    number: int
    how: str
    message: str


Reply = Hello | Bound | Answer | Failure
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=str)


def to_frame(message: msgspec.Struct) -> bytes:
    """Return the bytes. Values that msgpack does not know become texts. Raises: ValueError for what is too much."""
    data = _ENCODER.encode(message)
    if len(data) > MAX_FRAME:
        raise ValueError(f"{len(data)} bytes, at most {MAX_FRAME} allowed")
    return len(data).to_bytes(4, "big") + data


async def read_frame(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    """Return the next message. Raises: EOFError at the end, ValueError for what is none (`msgspec`'s errors are)."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > MAX_FRAME:
            raise ValueError(f"a message of {size} bytes, at most {MAX_FRAME} allowed")
        data = await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        raise EOFError from None
    return decoder.decode(data)
