"""What one clause of a policy says about a request: which attribute it looks at, and whether a value of it holds.

In:  a field of a source or an operation, or the key of a condition.
Out: an `Attribute`: whether only HTTP has it, and a function (pattern, request) -> does it match.
Rules: Istio, AuthorizationPolicy. Conditions are the same attributes under another name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lateen.authz.identity import (
    namespace_matches,
    principal_matches,
    service_account_matches,
    trust_domain_matches,
)
from lateen.authz.texts import (
    as_bytes,
    element_matches,
    host_matches,
    host_may_match,
    path_may_match,
    template_matches,
    text_matches,
)
from lateen.authz.tokens import claim_matches, claim_texts, request_principal_matches
from lateen.authz.values import HttpRequest, Request

__all__ = ["CONDITIONS", "OPERATIONS", "SOURCES", "Attribute", "Seen", "condition_attribute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as policies see it: with its path in the one spelling that is compared."""

    request: Request
    host: str = ""  # with its port
    path: str = ""  # normalised, without query
    trust_domains: tuple[str, ...] = ("cluster.local",)  # the mesh's own first, then its aliases

    @property
    def http(self) -> HttpRequest:
        assert self.request.http is not None  # HTTP's attributes are dropped on TCP before anybody looks
        return self.request.http

    @property
    def peer(self) -> str | None:
        return self.request.connection.peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One thing that can be asked of a request."""

    name: str
    holds: Callable[[str, Seen, str], bool]  # (pattern, request, namespace of the policy)
    shown: Callable[[Seen], str]  # what the request has, for people
    http_only: bool = False
    # Likewise, where a match keeps a request out, so that whatever may be meant counts; None: as `holds`.
    may_hold: Callable[[str, Seen, str], bool] | None = None

    def matches(self, pattern: str, seen: Seen, namespace: str, *, keeps_out: bool) -> bool:
        """Return whether `pattern` fits; `keeps_out`: what fits is refused."""
        decides = self.may_hold if keeps_out and self.may_hold is not None else self.holds
        return decides(pattern, seen, namespace)


def _block_contains(block: str, address: str) -> bool:
    network = ipaddress.ip_network(block, strict=False)
    found = ipaddress.ip_address(address)
    return found.version == network.version and found in network


def _remote_ip(seen: Seen) -> str:
    connection = seen.request.connection
    return connection.remote_ip or connection.source_ip


def _path_holds(pattern: str, seen: Seen, _: str) -> bool:
    if "{*}" in pattern or "{**}" in pattern:
        return template_matches(pattern, seen.path)
    return text_matches(pattern, seen.path) or (pattern == "/" and seen.path == "//")


def _principal(seen: Seen) -> str:
    return seen.peer or "no identity"


def _request_principal(seen: Seen) -> str:
    claims = seen.http.claims if seen.http.token == "valid" else None  # noqa: S105 - a state, no secret
    return f"{claims.get('iss')}/{claims.get('sub')}" if claims is not None else "no token"


_PRINCIPAL: Final = Attribute(
    name="principal",
    holds=lambda pattern, seen, _: principal_matches(pattern, seen.peer, seen.trust_domains),
    shown=_principal,
)
_NAMESPACE: Final = Attribute(
    name="namespace", holds=lambda pattern, seen, _: namespace_matches(pattern, seen.peer), shown=_principal
)
_ACCOUNT: Final = Attribute(
    name="service account",
    holds=lambda pattern, seen, namespace: service_account_matches(pattern, seen.peer, namespace),
    shown=_principal,
)
_DOMAIN: Final = Attribute(
    name="trust domain",
    holds=lambda pattern, seen, _: trust_domain_matches(pattern, seen.peer, seen.trust_domains),
    shown=_principal,
)
_REQUEST_PRINCIPAL: Final = Attribute(
    name="request principal",
    holds=lambda pattern, seen, _: request_principal_matches(pattern, seen.http),
    shown=_request_principal,
    http_only=True,
)
_SOURCE_IP: Final = Attribute(
    name="source IP",
    holds=lambda block, seen, _: _block_contains(block, seen.request.connection.source_ip),
    shown=lambda seen: seen.request.connection.source_ip,
)
_REMOTE_IP: Final = Attribute(
    name="remote IP", holds=lambda block, seen, _: _block_contains(block, _remote_ip(seen)), shown=_remote_ip
)
_DESTINATION_IP: Final = Attribute(
    name="destination IP",
    holds=lambda block, seen, _: _block_contains(block, seen.request.connection.destination_ip),
    shown=lambda seen: seen.request.connection.destination_ip,
)
_PORT: Final = Attribute(
    name="port",
    holds=lambda port, seen, _: int(port) == seen.request.connection.destination_port,
    shown=lambda seen: str(seen.request.connection.destination_port),
)
_SNI: Final = Attribute(
    name="SNI",
    holds=lambda pattern, seen, _: text_matches(pattern.lower(), seen.request.connection.sni.lower()),
    shown=lambda seen: seen.request.connection.sni or "none",
)
_HOST: Final = Attribute(
    name="host",
    holds=lambda pattern, seen, _: host_matches(pattern, seen.host),
    shown=lambda seen: seen.host,
    http_only=True,
    may_hold=lambda pattern, seen, _: host_may_match(pattern, seen.host),
)
_METHOD: Final = Attribute(
    name="method",
    holds=lambda pattern, seen, _: text_matches(pattern, seen.http.method),
    shown=lambda seen: seen.http.method,
    http_only=True,
)
_PATH: Final = Attribute(
    name="path",
    holds=_path_holds,
    shown=lambda seen: seen.path,
    http_only=True,
    may_hold=lambda pattern, seen, _: path_may_match(pattern, seen.path),
)

SOURCES: Final[Mapping[str, Attribute]] = {
    "principals": _PRINCIPAL,
    "request_principals": _REQUEST_PRINCIPAL,
    "namespaces": _NAMESPACE,
    "service_accounts": _ACCOUNT,
    "ip_blocks": _SOURCE_IP,
    "remote_ip_blocks": _REMOTE_IP,
    "trust_domains": _DOMAIN,
}
OPERATIONS: Final[Mapping[str, Attribute]] = {"hosts": _HOST, "ports": _PORT, "methods": _METHOD, "paths": _PATH}
CONDITIONS: Final[Mapping[str, Attribute]] = {
    "source.ip": _SOURCE_IP,
    "remote.ip": _REMOTE_IP,
    "source.namespace": _NAMESPACE,
    "source.serviceAccount": _ACCOUNT,
    "source.principal": _PRINCIPAL,
    "source.trustDomain": _DOMAIN,
    "request.auth.principal": _REQUEST_PRINCIPAL,
    "destination.ip": _DESTINATION_IP,
    "destination.port": _PORT,
    "connection.sni": _SNI,
}


def condition_attribute(key: str) -> Attribute | None:
    """Return the attribute that a condition's key names, `None` for what no key names."""
    if key in CONDITIONS:
        return CONDITIONS[key]
    if key == "request.auth.audiences":
        return _claim(key, ("aud",))
    if key == "request.auth.presenter":
        return _claim(key, ("azp",))
    if key.startswith("request.headers[") and key.endswith("]"):
        return _header(key[len("request.headers[") : -1])
    if re.fullmatch(r"request\.auth\.claims(\[[^\[\]]+\])+", key):
        return _claim(key, tuple(re.findall(r"\[([^\[\]]+)\]", key)))
    if found := re.fullmatch(r"experimental\.(envoy\.filters\.[^\[\]]+)\[(.+)\]", key):
        return _metadata(found[1], found[2])
    return None


def _claim(name: str, path: Sequence[str]) -> Attribute:
    return Attribute(
        name=name,
        holds=lambda pattern, seen, _: claim_matches(pattern, seen.http, path),
        shown=lambda seen: ", ".join(claim_texts(seen.http, path)) or "no such claim",
        http_only=True,
    )


def _header(name: str) -> Attribute:
    if name.lower() in ("host", ":authority"):
        return _HOST

    def values(seen: Seen) -> list[str]:
        return [value for key, value in seen.http.headers if key.lower() == name.lower()]

    def holds(pattern: str, seen: Seen, _: str) -> bool:
        return any(text_matches(as_bytes(pattern), line) for line in values(seen))

    def may_hold(pattern: str, seen: Seen, _: str) -> bool:
        """A line may be a list: each of its elements counts, and for `*` that the header is there at all."""
        lines = values(seen)
        if pattern == "*":
            return bool(lines)
        return any(element_matches(as_bytes(pattern), line) for line in lines)

    return Attribute(
        name=f"header {name}",
        holds=holds,
        shown=lambda seen: " and ".join(map(repr, values(seen))) or "no such header",
        http_only=True,
        may_hold=may_hold,
    )


def _metadata(filter_name: str, key: str) -> Attribute:
    def value(seen: Seen) -> Any:
        return seen.request.metadata.get(filter_name, {}).get(key)

    def holds(pattern: str, seen: Seen, _: str) -> bool:
        found = value(seen)
        if pattern.startswith("[") and pattern.endswith("]"):
            return isinstance(found, list | tuple) and any(
                isinstance(entry, str) and text_matches(pattern[1:-1], entry) for entry in found
            )
        return isinstance(found, str) and text_matches(pattern, found)

    return Attribute(name=f"{filter_name}[{key}]", holds=holds, shown=lambda seen: repr(value(seen)))
