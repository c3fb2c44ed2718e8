"""What a verified token says: request principals, audiences, presenter, claims.

Rules: Istio, AuthorizationPolicy "requestPrincipals", "request.auth". Only texts match: numbers, truth values and
structures do not. A list matches by any of its elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lateen.authz.texts import text_matches
from lateen.authz.values import HttpRequest

__all__ = ["claim_matches", "claim_texts", "request_principal_matches"]


def request_principal_matches(pattern: str, http: HttpRequest) -> bool:
    """Return whether issuer and subject of the token are those of `pattern`, which is split at its last slash."""
    issuer, subject = _claim(http, ("iss",)), _claim(http, ("sub",))
    if not isinstance(issuer, str) or not isinstance(subject, str):
        return False
    want_issuer, want_subject = _halves(pattern)
    if not want_issuer or not want_subject:
        return False  # there is no request principal with nothing before its slash, or behind it
    return text_matches(want_issuer, issuer) and text_matches(want_subject, subject)


def _halves(pattern: str) -> tuple[str, str]:
    """Return the patterns for issuer and subject."""
    issuer, slash, subject = pattern.rpartition("/")
    if slash:
        return issuer, subject
    if pattern == "*":
        return "*", "*"
    if pattern.startswith("*"):
        return "*", pattern
    return (pattern, "*") if pattern.endswith("*") else (pattern, "")


def claim_texts(http: HttpRequest, path: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of one claim: its own, those of a list, or the words of one that blanks divide."""
    value = _claim(http, path)
    if isinstance(value, str):
        if len(path) == 1 and path[0] in http.space_delimited:
            return tuple(word for word in value.split(" ") if word)
        return (value,)
    if isinstance(value, Sequence):
        return tuple(entry for entry in value if isinstance(entry, str))
    return ()


def claim_matches(pattern: str, http: HttpRequest, path: Sequence[str]) -> bool:
    """Return whether one text of the claim at `path` is what `pattern` wants."""
    return any(text_matches(pattern, text) for text in claim_texts(http, path))


def _claim(http: HttpRequest, path: Sequence[str]) -> Any:
    value: Any = http.claims if http.token == "valid" else None  # noqa: S105 - a state, no secret
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
