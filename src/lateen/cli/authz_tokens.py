"""What becomes of a caller's token at one workload, by the RequestAuthentications in force there.

In:  what the token says, taken as verified. Out: absent, valid or invalid, and what policies then know of it.
Rules: docs/api/RequestAuthentication.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lateen.authz import Request
from lateen.errors import BadInput
from lateen.wire.access import AccessReport

__all__ = ["is_for_others", "parse_claims", "space_delimited", "token_state"]


def parse_claims(text: str) -> Mapping[str, Any] | None:
    """Return the claims that an argument spells, as JSON or `@FILE`; None for "". Raises `BadInput`."""
    if not text:
        return None
    try:
        data = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        claims = msgspec.json.decode(data)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"--claims: {error}; wanted an object in JSON, or @ and a file that holds one") from error
    if not isinstance(claims, dict):
        raise BadInput(f"--claims: got {type(claims).__name__}, wanted an object in JSON")
    return claims


def token_state(claims: Mapping[str, Any] | None, report: AccessReport) -> tuple[str, Mapping[str, Any] | None]:
    """Return what becomes of a token with these claims: (absent | valid | invalid, what is known of it).

    Whose issuer is known but not its audience is invalid, too: `is_for_others` tells the two apart.
    """
    rules = list(_jwt_rules(report))
    if claims is None or not rules:
        return "absent", None  # nobody looks at it
    issuer, audiences = claims.get("iss", ""), _listed(claims.get("aud"))
    for rule in rules:
        wanted = rule.get("audiences", [])
        if rule.get("issuer", issuer) == issuer and (not wanted or set(wanted) & set(audiences)):
            return "valid", claims
    return "invalid", None


def is_for_others(request: Request, claims: Mapping[str, Any] | None, report: AccessReport) -> bool:
    """Return whether a token is refused for its audience alone, which Envoy answers with 403 in place of 401."""
    if request.http is None or request.http.token != "invalid":  # noqa: S105 - a state, no secret
        return False
    return any(rule.get("issuer") == (claims or {}).get("iss") for rule in _jwt_rules(report))


def _jwt_rules(report: AccessReport) -> Iterable[Mapping[str, Any]]:
    for policy in report.policies:
        if policy.kind == "RequestAuthentication":
            yield from policy.document["spec"].get("jwtRules", ())


def space_delimited(claims: Mapping[str, Any] | None, report: AccessReport) -> set[str]:
    """Return the claims of such a token that are lists with blanks between, beside those that always are."""
    issuer = (claims or {}).get("iss", "")
    return {
        name
        for rule in _jwt_rules(report)
        if rule.get("issuer", issuer) == issuer
        for name in rule.get("spaceDelimitedClaims", ())
    }


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []
