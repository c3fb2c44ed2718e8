"""Who the peer is, as policies name it: principals, namespaces, service accounts, trust domains.

In:  a SPIFFE ID that mutual TLS proved (`None` without one) and the texts of a policy.
Out: whether one of them names it. Without an identity nothing does.
Rules: Istio, AuthorizationPolicy "Identities" and "Trust domain aliases".
"""

from __future__ import annotations

from collections.abc import Sequence

from lateen.authz.texts import glob_matches, text_matches

__all__ = ["namespace_matches", "principal_matches", "service_account_matches", "trust_domain_matches"]

SCHEME = "spiffe://"
DEFAULT_DOMAIN = "cluster.local"  # means the mesh's own trust domain, whatever that is called


def principal_matches(pattern: str, peer: str | None, trust_domains: Sequence[str]) -> bool:
    """Return whether `pattern` (`td/ns/x/sa/y`, or with a `*`) names the peer; aliases of the trust domain count."""
    if not peer:
        return False
    if pattern == "*":
        return True
    if not peer.startswith(SCHEME):
        return False
    return any(text_matches(one, peer.removeprefix(SCHEME)) for one in _with_aliases(pattern, trust_domains))


def namespace_matches(pattern: str, peer: str | None) -> bool:
    """Return whether the peer's namespace is `pattern`, in which each `*` stands for any text without a slash.

    In Istio it may span slashes, so that `a*sa` is every namespace that begins with `a`: `/sa/` follows each.
    """
    if peer is None:
        return False
    segments = peer.split("/")
    return any(
        before == "ns" and at > 1 and glob_matches(pattern, name)
        for at, (before, name, _) in enumerate(zip(segments, segments[1:], segments[2:], strict=False), start=1)
    )


def service_account_matches(pattern: str, peer: str | None, policy_namespace: str) -> bool:
    """Return whether the peer is the account `ns/sa`, or `sa` of the policy's own namespace, of any trust domain."""
    if peer is None or not peer.startswith(SCHEME):
        return False
    namespace, _, account = pattern.rpartition("/")
    mark = f"/ns/{namespace or policy_namespace}/"
    rest = peer.removeprefix(SCHEME)
    at = rest.find(mark, 1)  # a trust domain has at least one character
    while at >= 0:
        if _is_account(rest[at + len(mark) :], account):
            return True
        at = rest.find(mark, at + 1)
    return False


def _is_account(path: str, account: str) -> bool:
    """Return whether `path` is `sa/<account>`, with other segments before or behind it if need be."""
    mark = f"/sa/{account}"
    whole = f"/{path}"
    at = whole.find(mark)
    while at >= 0:
        behind = whole[at + len(mark) :]
        before = whole[:at]
        if (behind == "" or (behind[0] == "/" and len(behind) > 1)) and before != "/":
            return True
        at = whole.find(mark, at + 1)
    return False


def trust_domain_matches(pattern: str, peer: str | None, trust_domains: Sequence[str]) -> bool:
    """Return whether the peer's trust domain is `pattern` (`*` alone, first or last); aliases are the same domain."""
    if peer is None or not peer.startswith(SCHEME):
        return False
    domain, slash, _ = peer.removeprefix(SCHEME).partition("/")
    if not slash and pattern != "*":
        return False
    same = trust_domains if pattern in trust_domains else (pattern,)
    return any(one == "*" or glob_matches(one, domain) for one in same)


def _with_aliases(pattern: str, trust_domains: Sequence[str]) -> Sequence[str]:
    domain, *rest = pattern.split("/")
    if len(rest) != 4 or rest[0] != "ns" or rest[2] != "sa" or domain == "*":
        return (pattern,)
    if not any(text_matches(domain, one) for one in (*trust_domains, DEFAULT_DOMAIN)):
        return (pattern,)
    spelled = ["/".join((one, *rest)) for one in trust_domains]
    return [pattern, *spelled] if "*" in domain else spelled  # a pattern may name trust domains beyond the mesh's
