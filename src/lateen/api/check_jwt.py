"""What one rule of a RequestAuthentication must satisfy beyond its shape. Rule ids (RA-) are those of docs/api."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from lateen.api.base import Object, Problem
from lateen.api.security import JWTRule
from lateen.api.suggest import seen

__all__ = ["check_jwt_rule"]

SPACE_DELIMITED_CLAIMS_LIMIT = 64
URI_LENGTH = 2048
_HEADER = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # a token: RFC 9110, section 5.6.2
_NOT_WRITTEN = frozenset(  # what a message is made of, or where it goes: not for claims
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive"}
)
_TAKEN_OFF = re.compile(r"x[-_](envoy|lateen|istio)[-_]", re.IGNORECASE)  # what only a mesh's own proxies say
_HEADER_OF_CLAIM = re.compile(r"[-_A-Za-z0-9]+")
_PRIVATE_JWK_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 sections 6.2.2, 6.3.2, 6.4.1


def check_jwt_rule(obj: Object, rule: JWTRule, path: str) -> Iterator[Problem]:
    """Yield every fault of the rule that stands at `path`."""
    if rule.issuer == "":
        yield obj.problem(f"{path}.issuer", "must not be empty; leave it out not to check it")
    if not rule.issuer and not rule.jwks_uri:
        yield obj.problem(path, "needs an issuer or a jwksUri")
    if rule.jwks_uri is not None:
        yield from _check_jwks_uri(obj, rule.jwks_uri, f"{path}.jwksUri")
    if rule.jwks is not None and rule.jwks_uri is not None:
        yield obj.problem(f"{path}.jwks", "cannot be combined with jwksUri")
    if rule.jwks:
        yield from _check_jwks(obj, rule.jwks, f"{path}.jwks")
    yield from _check_not_empty(obj, rule.audiences, f"{path}.audiences")
    for i, header in enumerate(rule.from_headers or ()):
        if not header.name:
            yield obj.problem(f"{path}.fromHeaders[{i}].name", "must not be empty")
        elif not _HEADER.fullmatch(header.name):
            yield obj.problem(f"{path}.fromHeaders[{i}].name", f"must be a header's name, got {seen(header.name)}")
        elif _TAKEN_OFF.match(header.name):
            message = f"{header.name} is taken off requests that enter the mesh, so no token is found in it there"
            yield obj.problem(f"{path}.fromHeaders[{i}].name", message, "warning")
        if any(char in header.prefix for char in "\0\r\n"):
            yield obj.problem(f"{path}.fromHeaders[{i}].prefix", "must not hold line ends")
    yield from _check_not_empty(obj, rule.from_params, f"{path}.fromParams")
    yield from _check_not_empty(obj, rule.from_cookies, f"{path}.fromCookies")
    for i, output in enumerate(rule.output_claim_to_headers or ()):
        place = f"{path}.outputClaimToHeaders[{i}]"
        if not _HEADER_OF_CLAIM.fullmatch(output.header):
            yield obj.problem(f"{place}.header", f"must be letters, digits, - and _, got {seen(output.header)}")
        if not output.claim:
            yield obj.problem(f"{place}.claim", "must not be empty")
        yield from _check_output(obj, rule, output.header, f"{place}.header")
    payload = rule.output_payload_to_header
    if payload and not _HEADER.fullmatch(payload):
        yield obj.problem(f"{path}.outputPayloadToHeader", f"must be a header's name, got {seen(payload)}")
    yield from _check_output(obj, rule, payload, f"{path}.outputPayloadToHeader")
    yield from _check_not_empty(obj, rule.space_delimited_claims, f"{path}.spaceDelimitedClaims")
    if len(rule.space_delimited_claims or ()) > SPACE_DELIMITED_CLAIMS_LIMIT:
        yield obj.problem(
            f"{path}.spaceDelimitedClaims",
            f"at most {SPACE_DELIMITED_CLAIMS_LIMIT} claims are allowed, got {len(rule.space_delimited_claims or ())}",
        )


def _check_output(obj: Object, rule: JWTRule, header: str, path: str) -> Iterator[Problem]:
    name = header.lower()
    if name in _NOT_WRITTEN:
        yield obj.problem(path, f"cannot be {name}: no claim belongs there")
    places = {place.name.lower() for place in rule.from_headers or ()}
    if not (rule.from_headers or rule.from_params or rule.from_cookies):
        places = {"authorization"}
    if name and name in places:
        yield obj.problem(
            path, f"is where tokens are found: {name} is taken off each request first, so none is", "warning"
        )


def _check_not_empty(obj: Object, values: Iterable[str] | None, path: str) -> Iterator[Problem]:
    for i, value in enumerate(values or ()):
        if not value:
            yield obj.problem(f"{path}[{i}]", "must not be empty")


def _check_jwks_uri(obj: Object, uri: str, path: str) -> Iterator[Problem]:
    if len(uri) > URI_LENGTH:
        yield obj.problem(path, f"must have at most {URI_LENGTH} characters, got {len(uri)}")
        return
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as err:
        yield obj.problem(path, f"must be an http or https URL, got {seen(uri)} ({err})")
        return
    if parts.scheme not in ("http", "https") or not host:
        yield obj.problem(path, f"must be an http or https URL with a host, got {seen(uri)}")


def _check_jwks(obj: Object, text: str, path: str) -> Iterator[Problem]:
    try:
        keys: Any = json.loads(text)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        yield obj.problem(path, "must be a JWK set: JSON with a list `keys`, each with its `kty` (RFC 7517 section 5)")
        return
    for i, key in enumerate(keys):
        if _PRIVATE_JWK_MEMBERS & key.keys():
            # The message must not repeat the key.
            yield obj.problem(
                path,
                f"key {i} holds private or symmetric material and is not used; give the public half only",
                "warning",
            )
