"""What a handler gets and gives: one HTTP request, one HTTP response, as plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Handler", "Request", "Response", "json_response", "not_found"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str  # without the query
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response]


def json_response(value: Any, status: int = 200) -> Response:
    """Return `value` as a JSON response."""
    return Response(status=status, body=json.dumps(value).encode())


def not_found(request: Request) -> Response:
    """Return what a path that nobody serves gets."""
    return json_response({"error": f"nothing is served at {request.path}"}, 404)
