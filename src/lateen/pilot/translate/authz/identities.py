"""Who the peer is: principals, namespaces, service accounts and trust domains, by the SPIFFE ID of its certificate.

Envoy compares with the names in the certificate that ended the handshake. It has a newer matcher that looks at nothing
else, `mtls_authenticated`, but that one sees no identity on a TLS session that is taken up again, so a DENY would be
passed by reconnecting (envoyproxy/envoy issue 42668).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from envoy.config.rbac.v3.rbac_pb2 import Principal
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from lateen.pilot.translate.authz.logic import PRINCIPALS
from lateen.pilot.translate.authz.texts import SOMETHING, expression, quoted
from lateen.pilot.translate.authz.vouching import Vouching

__all__ = ["believed", "namespace", "principal", "service_account", "trust_domain"]

SCHEME: Final = "spiffe://"
DEFAULT_DOMAIN: Final = "cluster.local"  # means the mesh's own trust domain, whatever that is called


def believed(identity: Principal, vouching: Vouching, trust_domains: Sequence[str]) -> Principal:
    """Return the matcher for an identity where it is vouched for so: never, where nobody vouches."""
    if vouching is Vouching.MESH:
        return identity
    if vouching is Vouching.NOBODY:
        return PRINCIPALS.never
    claimed = PRINCIPALS.one_of([_named(StringMatcher(prefix=f"{SCHEME}{domain}/")) for domain in trust_domains])
    return PRINCIPALS.all_of([identity, PRINCIPALS.negated(claimed)])


def principal(pattern: str, trust_domains: Sequence[str]) -> Principal:
    """Return the matcher for `<trust domain>/ns/<namespace>/sa/<account>`, `*` allowed at an end, aliases included."""
    return _named(SOMETHING) if pattern == "*" else _one_of(map(_spiffe_id, _with_aliases(pattern, trust_domains)))


def namespace(pattern: str) -> Principal:
    """Return the matcher for a namespace, in which each `*` stands for any text without a slash."""
    return _named(expression(".*/ns/", "[^/]*".join(map(quoted, pattern.split("*"))), "/.*"))


def service_account(name: str, policy_namespace: str) -> Principal:
    """Return the matcher for `<namespace>/<account>`, or `<account>` of the policy's own namespace."""
    owner, _, account = name.rpartition("/")
    return _named(
        expression(SCHEME, ".+/ns/", quoted(owner or policy_namespace), "/(?:.+/)?sa/", quoted(account), "(?:/.+)?")
    )


def trust_domain(pattern: str, trust_domains: Sequence[str]) -> Principal:
    """Return the matcher for a trust domain, `*` allowed at an end; one of the mesh's own stands for all of those."""
    return _one_of(map(_domain, trust_domains if pattern in trust_domains else (pattern,)))


def _domain(pattern: str) -> StringMatcher:
    if pattern == "*":
        return StringMatcher(prefix=SCHEME)
    if pattern.startswith("*"):
        return expression(SCHEME, "[^/]*", quoted(pattern[1:]), "/.*")
    if pattern.endswith("*"):
        return expression(SCHEME, quoted(pattern[:-1]), "[^/]*/.*")
    return StringMatcher(prefix=f"{SCHEME}{pattern}/")


def _spiffe_id(pattern: str) -> StringMatcher:
    if pattern.startswith("*"):
        return expression(SCHEME, ".*", quoted(pattern[1:]))
    if pattern.endswith("*"):
        return StringMatcher(prefix=SCHEME + pattern[:-1])
    return StringMatcher(exact=SCHEME + pattern)


def _with_aliases(pattern: str, trust_domains: Sequence[str]) -> Sequence[str]:
    """Return a principal under each name of the mesh's trust domain, if that is the one it names."""
    domain, *rest = pattern.split("/")
    whole = len(rest) == 4 and rest[0] == "ns" and rest[2] == "sa" and domain != "*"
    if not whole or not any(_names(domain, one) for one in (*trust_domains, DEFAULT_DOMAIN)):
        return (pattern,)
    # A pattern may name other trust domains as well, so it stays beside what it is spelled out to.
    spelled = ["/".join((one, *rest)) for one in trust_domains]
    return tuple(dict.fromkeys([pattern, *spelled] if "*" in domain else spelled))


def _names(pattern: str, domain: str) -> bool:
    if pattern.startswith("*"):
        return domain.endswith(pattern[1:])
    return domain.startswith(pattern[:-1]) if pattern.endswith("*") else domain == pattern


def _one_of(names: Iterable[StringMatcher]) -> Principal:
    return PRINCIPALS.one_of([_named(name) for name in names])


def _named(name: StringMatcher) -> Principal:
    return Principal(authenticated=Principal.Authenticated(principal_name=name))
