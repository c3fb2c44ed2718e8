"""What is decided on, and what a decision says.

`Request` is one HTTP request or one TCP connection as it reaches a workload or a gateway; nothing is normalised yet.
`Policy` is one AuthorizationPolicy with its place. `Decision` tells the outcome and everything that led to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lateen.api.base import Object, Origin
from lateen.api.security import AuthorizationPolicy

__all__ = ["Connection", "Decision", "HttpRequest", "Match", "Policy", "Request", "Token", "policy_of"]

NOWHERE: Final = Origin("", 0)
DRY_RUN: Final = "istio.io/dry-run"
_TRUE: Final = ("1", "t", "T", "true", "True", "TRUE")  # what Go's ParseBool takes for true

Token = Literal["absent", "valid", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the caller is connected."""

    source_ip: str  # of the peer that is connected
    remote_ip: str = ""  # of the original client, by X-Forwarded-For or PROXY protocol; "": the peer is the client
    peer: str | None = None  # SPIFFE ID that mutual TLS proved, with `spiffe://`; None: plain, or no such identity
    sni: str = ""
    destination_ip: str
    destination_port: int  # the workload's, not the Service's


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request as it was sent. Bytes beyond ASCII are Latin-1 characters, as HTTP/1 spells them."""

    method: str = "GET"
    authority: str  # `Host` or `:authority`, with its port if it has one
    path: str = "/"  # with its query
    headers: tuple[tuple[str, str], ...] = ()  # one pair a line, so that one name may have many values
    token: Token = "absent"  # noqa: S105 - a state, no secret
    claims: Mapping[str, Any] | None = None  # of a valid token
    space_delimited: frozenset[str] = frozenset({"scope", "permission"})  # claims that are lists with blanks between


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What asks to get in: a connection, and on HTTP ports a request on it."""

    connection: Connection
    http: HttpRequest | None = None  # None: bytes on a TCP port
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # filter -> key -> value


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One AuthorizationPolicy and where it was written."""

    namespace: str
    name: str
    spec: AuthorizationPolicy
    dry_run: bool = False
    created: str = ""  # RFC 3339; older ones come first
    origin: Origin = NOWHERE
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # field path -> line

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def line_of_rule(self, index: int) -> int:
        """Return the line of a rule, or of the resource where that is not known."""
        return self.lines.get(f"spec.rules[{index}]", self.origin.line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A policy and the index of its first rule that matches."""

    policy: Policy
    rule: int

    def __str__(self) -> str:
        where = f" ({self.policy.origin.file}:{self.policy.line_of_rule(self.rule)})" if self.policy.origin.file else ""
        return f"{self.policy.spec.action} {self.policy}, rule {self.rule}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome. `allowed` with `asks`: provided that each of these authorizers agrees."""

    allowed: bool
    status: int  # 200, or what an HTTP client gets: 400, 401, 403. On TCP a refusal closes the connection
    action: str  # whose turn decided: CUSTOM, DENY, ALLOW; "" when no policy did
    match: Match | None = None  # what decided; None when nothing matched, or nothing applies
    why: str
    asks: tuple[str, ...] = ()  # providers of CUSTOM policies that match
    audited: tuple[Match, ...] = ()
    dry_run: Mapping[str, Match | None] = field(default_factory=dict)  # ALLOW, DENY: what would have matched
    normalised: tuple[str, ...] = ()  # attributes that were compared in another spelling, `path "/a/../b" as "/b"`

    @property
    def policy(self) -> Policy | None:
        return self.match.policy if self.match is not None else None

    @property
    def rule(self) -> int | None:
        return self.match.rule if self.match is not None else None


def policy_of(obj: Object) -> Policy:
    """Return the policy that a decoded AuthorizationPolicy is."""
    return Policy(
        namespace=obj.key.namespace,
        name=obj.key.name,
        spec=obj.spec,
        # Anything but a true value is enforced: what is misspelled must not switch a policy off.
        dry_run=obj.annotations.get(DRY_RUN) in _TRUE,
        created=obj.created,
        origin=obj.origin,
        lines=obj.lines,
    )
