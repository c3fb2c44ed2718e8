"""How an agent asks for a JWT-SVID: `/lateen.jwt.v1.JwtSvids/Issue`, JSON over gRPC, unary-unary.

Who the token is for is never said in the message: it is who the caller is, as for certificates (`lateen.wire.ca`).

    UNAUTHENTICATED    nobody knows the caller
    INVALID_ARGUMENT   audience or lifetime
    PERMISSION_DENIED  its identity gets none here
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["ISSUE", "METHOD", "SERVICE", "JwtAnswer", "JwtRequest"]

SERVICE: Final = "lateen.jwt.v1.JwtSvids"
METHOD: Final = "Issue"
ISSUE: Final = f"/{SERVICE}/{METHOD}"


class JwtRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One token is wanted."""

    audience: tuple[str, ...]
    lifetime_seconds: int = 0  # 0: Citadel's default, 5 minutes; at most an hour


class JwtAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The token, a secret of its subject. Times are Unix seconds."""

    spiffe_id: str
    token: str
    issued: int
    expires: int

    def __repr__(self) -> str:
        return f"JwtAnswer(spiffe_id={self.spiffe_id!r}, expires={self.expires})"
