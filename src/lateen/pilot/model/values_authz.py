"""What a proxy is told about who may do what: the value between the model and `lateen.pilot.translate`.

Selection is done: what is in here is in force. Rules are the API's own frozen structs, as they were written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["AS_IN_ISTIO", "NO_AUTHORIZATION", "Authorization", "Authorizer", "PolicyInput", "Spelling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInput:
    """One AuthorizationPolicy, without where it applies."""

    namespace: str
    name: str
    action: str  # ALLOW | DENY | AUDIT | CUSTOM
    dry_run: bool = False
    provider: str = ""  # of CUSTOM
    rules: tuple[Any, ...] = ()  # api Rule; () never matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorizer:
    """One external authorizer, as MeshConfig's `extensionProviders` define it: one of `http`, `grpc`, `fault`."""

    name: str
    cluster: str = ""
    authority: str = ""  # the Host of requests to it
    http: Any = None  # api ExtAuthzHttp
    grpc: Any = None  # api ExtAuthzGrpc
    fault: str = ""  # why it cannot be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """All policies of one listener, those of the root namespace first, then the oldest."""

    policies: tuple[PolicyInput, ...] = ()
    trust_domains: tuple[str, ...] = ()  # the own one and its aliases, which principals are spelled out for
    authorizers: tuple[Authorizer, ...] = ()  # those that CUSTOM policies name, by name


NO_AUTHORIZATION = Authorization()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """Into which one spelling requests are brought before anybody looks at them."""

    paths: str = "BASE"  # NONE | BASE | MERGE_SLASHES | DECODE_AND_MERGE_SLASHES
    underscores: bool = True  # headers with `_` in their names are taken; many servers read `x_a` as `x-a`


AS_IN_ISTIO = Spelling()
