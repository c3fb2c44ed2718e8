"""One call, as who answers it sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Call", "CallFailed", "Code", "Methods", "Stream", "Unary"]


class Code(IntEnum):
    """gRPC's status codes, those that are used."""

    OK = 0
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class CallFailed(Exception):
    """A call that gets a status instead of an answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls, and what is said beside the message. `certificate`: of the TLS client, in PEM; None without TLS."""

    metadata: tuple[tuple[str, str], ...]
    certificate: bytes | None


@dataclass(frozen=True, slots=True)
class Unary:
    """Answers a message by another one: at once, or later. Raises: CallFailed."""

    answer: Callable[[bytes, Call], bytes | Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Takes messages until the caller ends. `opened` comes first, `closed` last. Raises: CallFailed."""

    opened: Callable[[Call], None]
    take: Callable[[bytes, Call], None]
    closed: Callable[[], None]


Methods = dict[str, Unary | Stream]  # by path: "/package.Service/Method"
