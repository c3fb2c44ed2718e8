"""AuthorizationPolicies in force at one proxy.

Rules: docs/api/AuthorizationPolicy.md. Which policies those are is found in `attachment`; what they mean is not decided
here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lateen.api.base import Object, ResourceKey
from lateen.api.policy_reading import looks_at_paths, names_of_headers
from lateen.flow import Read
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.authorizers import Authorizers
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.values_authz import AS_IN_ISTIO, NO_AUTHORIZATION, Authorization, PolicyInput, Spelling

__all__ = ["Authorizations"]

KIND = "AuthorizationPolicy"
DRY_RUN = "istio.io/dry-run"
UNSET = "DEFAULT"  # of pathNormalization
STRICT = "DECODE_AND_MERGE_SLASHES"
PSEUDO = frozenset({"host", ":authority", ":method", ":path", ":scheme"})  # no headers that a client can spell anew
_TRUE = ("1", "t", "T", "true", "True", "TRUE")  # what Go's ParseBool takes for true


@dataclass(frozen=True, slots=True)
class _Policy:
    """A policy, and what it looks at."""

    content: PolicyInput
    paths: bool
    headers: frozenset[str]


class Authorizations:
    """The derived collections of policies in force."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.attachment = Attachment(mesh, KIND)
        self.authorizers = Authorizers(mesh)
        # policy -> _Policy | None; equal where only its place or its selector changed
        self._policy = mesh.graph.derive("authorization policies", self._policy_of)

    def of(
        self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...], view: Callable[[], View]
    ) -> Authorization:
        """Return what is in force at a proxy.

        `kind` is "sidecar" or "gateway"; `labels` are the workload's, sorted. `view` is asked only if it matters: who
        looks at it is computed anew with it.
        """
        policies = self._in_force(read, kind, namespace, labels)
        if not policies:
            return NO_AUTHORIZATION
        settings: MeshSettings = read.get(self._mesh.settings, "mesh")
        asked = sorted({policy.content.provider for policy in policies if policy.content.action == "CUSTOM"})
        return Authorization(
            policies=tuple(policy.content for policy in policies),
            trust_domains=settings.trust_domains,
            authorizers=tuple(self.authorizers.for_view(read, view(), name) for name in asked),
        )

    def spelling(self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]) -> Spelling:
        """Return how requests are spelled at a proxy: as the mesh says, else as strictly as its policies need.

        Where no policy looks at paths they are left as in Istio: there are services that tell `a%2Fb` from `a/b`.
        """
        settings: MeshSettings = read.get(self._mesh.settings, "mesh")
        policies = self._in_force(read, kind, namespace, labels)
        headers = frozenset(name for policy in policies for name in policy.headers)
        paths = settings.path_normalization
        if paths == UNSET:
            paths = STRICT if any(policy.paths for policy in policies) else AS_IN_ISTIO.paths
        return Spelling(paths=paths, underscores=not headers or any("_" in name for name in headers))

    def _in_force(
        self, read: Read, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> tuple[_Policy, ...]:
        keys = self.attachment.keys(read, kind=kind, namespace=namespace, labels=labels)
        return tuple(policy for key in keys if (policy := read.get(self._policy, key)) is not None)

    def _policy_of(self, read: Read, key: ResourceKey) -> _Policy | None:
        obj: Object | None = read.get(self._mesh.objects, key)
        if obj is None:
            return None
        spec = obj.spec
        return _Policy(
            content=PolicyInput(
                namespace=key.namespace,
                name=key.name,
                action=spec.action,
                dry_run=obj.annotations.get(DRY_RUN) in _TRUE,
                provider=spec.provider.name if spec.provider is not None else "",
                rules=spec.rules,
            ),
            paths=looks_at_paths(spec),
            headers=names_of_headers(spec) - PSEUDO,
        )
