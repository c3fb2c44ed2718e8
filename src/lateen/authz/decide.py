"""Decide on one request by all policies that apply to where it goes.

In:  the policies (see `attachment.py`), a `Request`, how paths are normalised, the mesh's trust domains.
Out: a `Decision`.
Rules: Istio, AuthorizationPolicy "Evaluation": CUSTOM, then the token, then DENY, then ALLOW; AUDIT never decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from lateen.authz.attributes import Seen
from lateen.authz.normalise import Normalisation, default_normalisation, is_readable, normalise_path, split_target
from lateen.authz.rules import what_fails
from lateen.authz.values import Decision, Match, Policy, Request

__all__ = ["Provider", "decide"]

Provider = Literal["grpc", "http"]


def decide(
    policies: Iterable[Policy],
    request: Request,
    *,
    normalisation: Normalisation | None = None,
    trust_domains: Sequence[str] = ("cluster.local",),
    providers: Mapping[str, Provider] | None = None,
) -> Decision:
    """Return what becomes of `request` where `policies` apply.

    `normalisation`: as the mesh says; None: it says nothing, so as these policies need. `trust_domains`: the mesh's
    own first, then its aliases. `providers`: authorizers that exist, by name; None: all that are named do, over gRPC.
    An authorizer is not asked: the decision says who would be, and holds if it agrees.
    """
    known = tuple(policies)
    normal = normalisation or default_normalisation(known)
    seen, notes = _look(request, normal, tuple(trust_domains))
    if seen is None:
        return Decision(allowed=False, status=400, action="", why="its path or a header cannot be read in one way")

    if request.http is not None and not is_readable(seen.path, normal):
        why = f'some servers read the path "{seen.path}" in another way'
        return Decision(allowed=False, status=403, action="", why=why, normalised=notes)
    asks, refusal = _custom(known, seen, providers)
    if refusal is not None:
        return Decision(allowed=False, status=403, action="CUSTOM", match=refusal[0], why=refusal[1], normalised=notes)
    if request.http is not None and request.http.token == "invalid":  # noqa: S105 - a state, no secret
        why = "the token is invalid"
        return Decision(allowed=False, status=401, action="", why=why, asks=asks, normalised=notes)
    allowed, action, match, why = _enforced(known, seen)
    return Decision(
        allowed=allowed,
        status=200 if allowed else 403,
        action=action,
        match=match,
        why=why,
        asks=asks,
        audited=tuple(_matches(known, "AUDIT", seen)),
        dry_run=_dry_run(known, seen),
        normalised=notes,
    )


def _look(request: Request, how: Normalisation, domains: tuple[str, ...]) -> tuple[Seen | None, tuple[str, ...]]:
    """Return the request as policies see it and what is spelled otherwise in it; None for one that is malformed."""
    http = request.http
    if http is None:
        return Seen(request=request, trust_domains=domains), ()
    target = split_target(http.path, http.authority)
    path = normalise_path(target[1], how) if target is not None else None
    disguised = not how.underscores and any("_" in name for name, _ in http.headers)
    if target is None or path is None or disguised:
        return None, ()
    notes = []
    if http.path.partition("?")[0] != path:
        notes.append(f'path "{http.path.partition("?")[0]}" as "{path}"')
    if http.authority != target[0]:
        notes.append(f'host "{http.authority}" as "{target[0]}"')
    return Seen(request=request, host=target[0], path=path, trust_domains=domains), tuple(notes)


def _enforced(policies: Sequence[Policy], seen: Seen) -> tuple[bool, str, Match | None, str]:
    """Return (allowed, action, what matched, why) of the DENY and ALLOW policies."""
    enforced = [policy for policy in policies if not policy.dry_run]
    for match in _matches(enforced, "DENY", seen):
        return False, "DENY", match, f"matches {match}"
    allows = [policy for policy in enforced if policy.spec.action == "ALLOW"]
    if not allows:
        return True, "", None, "no ALLOW policy applies, and no DENY policy matches"
    for match in _matches(allows, "ALLOW", seen):
        return True, "ALLOW", match, f"matches {match}"
    return False, "ALLOW", None, "no rule of an ALLOW policy matches: " + "; ".join(_faults(allows, seen))


def _custom(
    policies: Sequence[Policy], seen: Seen, providers: Mapping[str, Provider] | None
) -> tuple[tuple[str, ...], tuple[Match, str] | None]:
    """Return whom to ask, or the match that is refused because there is nobody to ask, and why."""
    custom = [policy for policy in policies if policy.spec.action == "CUSTOM"]
    asks = []
    for name in sorted({_provider(policy) for policy in custom}):
        match = next(_matches([policy for policy in custom if _provider(policy) == name], "CUSTOM", seen), None)
        if match is None:
            continue
        kind = "grpc" if providers is None else providers.get(name)
        if kind is None:
            return (), (match, f"{match} asks provider {name}, which is not defined")
        if kind == "grpc" or seen.request.http is not None:  # one that speaks HTTP is not asked about bytes
            asks.append(name)
    return tuple(asks), None


def _provider(policy: Policy) -> str:
    return policy.spec.provider.name if policy.spec.provider is not None else ""


def _matches(policies: Iterable[Policy], action: str, seen: Seen) -> Iterator[Match]:
    """Yield the first matching rule of each policy of one action."""
    for policy in policies:
        if policy.spec.action == action:
            for index, rule in enumerate(policy.spec.rules):
                if what_fails(rule, seen, action=action, namespace=policy.namespace) is None:
                    yield Match(policy=policy, rule=index)
                    break


def _faults(policies: Iterable[Policy], seen: Seen) -> Iterator[str]:
    for policy in policies:
        if not policy.spec.rules:
            yield f"{policy} has no rules, so it allows nothing"
        for index, rule in enumerate(policy.spec.rules):
            yield f"{policy}, rule {index}: {what_fails(rule, seen, action='ALLOW', namespace=policy.namespace)}"


def _dry_run(policies: Sequence[Policy], seen: Seen) -> dict[str, Match | None]:
    """Return, for each action that is tried out, what would have matched."""
    tried = [policy for policy in policies if policy.dry_run]
    return {
        action: next(_matches(tried, action, seen), None)
        for action in ("ALLOW", "DENY")
        if any(policy.spec.action == action for policy in tried)
    }
