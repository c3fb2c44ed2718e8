"""AuthorizationPolicies in force at one proxy.

Rules: docs/api/AuthorizationPolicy.md. Which policies those are is found in `attachment`; what they mean is not decided
here.
"""

from __future__ import annotations

from lateen.api.base import Object, ResourceKey
from lateen.flow import Read
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.mesh import Mesh, MeshSettings
from lateen.pilot.model.values_authz import NO_AUTHORIZATION, Authorization, PolicyInput

__all__ = ["Authorizations"]

KIND = "AuthorizationPolicy"
DRY_RUN = "istio.io/dry-run"
_TRUE = ("1", "t", "T", "true", "True", "TRUE")  # what Go's ParseBool takes for true


class Authorizations:
    """The derived collections of policies in force."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._attachment = Attachment(mesh, KIND)
        # policy -> PolicyInput | None; equal where only its place or its selector changed
        self._policy = mesh.graph.derive("authorization policies", self._policy_of)

    def of(self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]) -> Authorization:
        """Return what is in force at a proxy. `kind` is "sidecar" or "gateway"; `labels` are the workload's, sorted."""
        keys = self._attachment.keys(read, kind=kind, namespace=namespace, labels=labels)
        policies = [policy for key in keys if (policy := read.get(self._policy, key)) is not None]
        if not policies:
            return NO_AUTHORIZATION
        settings: MeshSettings = read.get(self._mesh.settings, "mesh")
        return Authorization(policies=tuple(policies), trust_domains=settings.trust_domains)

    def _policy_of(self, read: Read, key: ResourceKey) -> PolicyInput | None:
        obj: Object | None = read.get(self._mesh.objects, key)
        if obj is None:
            return None
        spec = obj.spec
        return PolicyInput(
            namespace=key.namespace,
            name=key.name,
            action=spec.action,
            dry_run=obj.annotations.get(DRY_RUN) in _TRUE,
            provider=spec.provider.name if spec.provider is not None else "",
            rules=spec.rules,
        )
