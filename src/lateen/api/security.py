"""security.istio.io: AuthorizationPolicy, PeerAuthentication, RequestAuthentication, as written.

Shapes only; rules beyond them are in `lateen.api.check_security`. Meaning and defaults: docs/api.
`None` means not set, which differs from empty: `rules: []` and no rules at all both never match, `from: []` is a fault.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lateen.api.base import Spec
from lateen.api.scalars import Duration, Mapping
from lateen.api.selectors import PolicyTargetReference, WorkloadSelector

__all__ = [
    "AuthorizationPolicy",
    "ClaimToHeader",
    "Condition",
    "ExtensionProviderRef",
    "From",
    "JWTHeader",
    "JWTRule",
    "MutualTLS",
    "Operation",
    "PeerAuthentication",
    "RequestAuthentication",
    "Rule",
    "Source",
    "To",
]

Action = Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"]
MtlsModeName = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]


class Source(Spec, frozen=True, kw_only=True):
    """Who asks. All fields given must hold; a list holds if one of its values does, its `not_` twin if none does."""

    principals: tuple[str, ...] = ()  # <trust domain>/ns/<namespace>/sa/<service account>
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()  # <iss>/<sub>
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()  # `sa` in the policy's namespace, or `ns/sa`
    not_service_accounts: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()  # IP or CIDR of the connected peer
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()  # IP or CIDR of the original client
    not_remote_ip_blocks: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()


class Operation(Spec, frozen=True, kw_only=True):
    """What is asked for. As in `Source`: fields are ANDed, values of one list ORed."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()  # the workload's port, as text
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class Condition(Spec, frozen=True, kw_only=True):
    """One more thing that must hold: an attribute and its values."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class From(Spec, frozen=True, kw_only=True):
    source: Source | None = None


class To(Spec, frozen=True, kw_only=True):
    operation: Operation | None = None


class Rule(Spec, frozen=True, kw_only=True):
    """Matches when one of `from`, one of `to` and all of `when` do; what is missing matches everything."""

    from_: tuple[From, ...] | None = msgspec.field(default=None, name="from")
    to: tuple[To, ...] | None = None
    when: tuple[Condition, ...] = ()


class ExtensionProviderRef(Spec, frozen=True, kw_only=True):
    """Names an entry of `MeshConfig.extensionProviders`."""

    name: str


class AuthorizationPolicy(Spec, frozen=True, kw_only=True):
    """Who may do what to which workloads. Without rules it matches nothing: an ALLOW then denies everything."""

    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None  # used only if target_refs is empty
    target_refs: tuple[PolicyTargetReference, ...] = ()
    action: Action = "ALLOW"
    provider: ExtensionProviderRef | None = None  # for CUSTOM
    rules: tuple[Rule, ...] = ()


class MutualTLS(Spec, frozen=True, kw_only=True):
    mode: MtlsModeName = "UNSET"


class PeerAuthentication(Spec, frozen=True, kw_only=True):
    """Whether inbound connections may or must be mutual TLS."""

    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: Mapping[int, MutualTLS] | None = None  # by the workload's port


class JWTHeader(Spec, frozen=True, kw_only=True):
    name: str
    prefix: str = ""  # with its trailing blank, "Bearer "


class ClaimToHeader(Spec, frozen=True, kw_only=True):
    header: str
    claim: str  # nested with dots


class JWTRule(Spec, frozen=True, kw_only=True):
    """One issuer of tokens, where its tokens are found and where its keys come from."""

    issuer: str | None = None
    audiences: tuple[str, ...] = ()
    jwks_uri: str | None = None
    jwks: str | None = None  # a JWK set as JSON text
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    forward_original_token: bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None  # 5s
    space_delimited_claims: tuple[str, ...] = ()


class RequestAuthentication(Spec, frozen=True, kw_only=True):
    """Which tokens are believed. A request without one passes, one with a bad one gets 401."""

    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None  # used only if target_refs is empty
    target_refs: tuple[PolicyTargetReference, ...] = ()
    jwt_rules: tuple[JWTRule, ...] = ()
