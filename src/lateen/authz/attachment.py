"""Which AuthorizationPolicies apply to one workload or gateway.

Rules: Istio: candidates are the policies of the root namespace, then
those of the workload's own; in each by age. A selector selects by labels, `targetRefs` name a Kubernetes Gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lateen.authz.values import Policy

__all__ = ["Target", "attached"]

GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom policies may apply to."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


def attached(policies: Iterable[Policy], target: Target, *, root_namespace: str = "istio-system") -> tuple[Policy, ...]:
    """Return the policies that apply to `target`: the root namespace's, then its own, each from old to new."""
    found = [policy for policy in policies if _applies(policy, target, root_namespace)]
    return tuple(
        sorted(
            found,
            # No time of creation: as old as the mesh, which is how files without one are meant.
            key=lambda policy: (policy.namespace != root_namespace, policy.created, policy.name),
        )
    )


def _applies(policy: Policy, target: Target, root_namespace: str) -> bool:
    if policy.namespace not in (root_namespace, target.namespace):
        return False
    references = policy.spec.target_refs or ((policy.spec.target_ref,) if policy.spec.target_ref is not None else ())
    if references:
        name = target.labels.get(GATEWAY_NAME)
        return name is not None and any(
            reference.group == "gateway.networking.k8s.io"
            and reference.kind == "Gateway"
            and reference.name == name
            and policy.namespace == target.namespace
            for reference in references
        )
    wanted = policy.spec.selector.match_labels if policy.spec.selector is not None else {}
    return all(target.labels.get(key) == value for key, value in wanted.items())
