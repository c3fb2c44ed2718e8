"""The answer of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

__all__ = ["AdapterError", "Verdict"]


class AdapterError(Exception):
    """It cannot be decided; the rule's failurePolicy says what becomes of the request. The text is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a request, or a connection, may go on.

    `status`, `body`, `headers`: of the answer to who is refused. `request_headers`: set on the request of who is not.
    `ttl`: seconds for which the same values of the same client may be answered so again; 0: not at all.
    """

    allowed: bool = True
    status: int = 403
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    request_headers: Mapping[str, str] = field(default_factory=dict)
    ttl: float = 0.0

    @classmethod
    def allow(cls, *, request_headers: Mapping[str, str] | None = None, ttl: float = 0.0) -> Self:
        return cls(request_headers=request_headers or {}, ttl=ttl)

    @classmethod
    def deny(
        cls, status: int = 403, body: str = "", *, headers: Mapping[str, str] | None = None, ttl: float = 0.0
    ) -> Self:
        return cls(allowed=False, status=status, body=body, headers=headers or {}, ttl=ttl)
