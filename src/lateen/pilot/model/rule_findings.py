"""What is wrong with a DestinationRule, given all other resources: a host that nobody has, or that is another's.

Rules: docs/api/DestinationRule.md "Precedence": a client is told by rules of its own namespace, of the service's, and
of the root namespace. So of another namespace's host a rule says something to its own clients only, in Istio too.
"""

from __future__ import annotations

from lateen.api.base import ResourceKey
from lateen.flow import Read
from lateen.pilot.model.findings import Finding
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.mesh import Mesh, MeshSettings
from lateen.pilot.registry.values import Service

__all__ = ["RuleFindings"]


class RuleFindings:
    """The derived collection of findings of DestinationRules."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        # key of a DestinationRule -> tuple[Finding, ...]
        self.found = mesh.graph.derive("findings of destination rules", self._found)

    def _found(self, read: Read, key: ResourceKey) -> tuple[Finding, ...]:
        obj = read.get(self.mesh.objects, key)
        if obj is None:
            return ()
        host = full_name(obj.spec.host, key.namespace)
        service: Service | None = read.get(self.mesh.service, (key.namespace, host))
        if service is None:
            # A wildcard is for whatever comes.
            if host.startswith("*"):
                return ()
            message = f"no service {host} is visible from namespace {key.namespace}; the rule does nothing"
            return (Finding("spec.host", message, "warning"),)
        # What does not say whom it is for is not taken at its word: most rules on others' hosts mean their own clients.
        if all(entry in (".", key.namespace) for entry in obj.spec.export_to):
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        if key.namespace in (service.namespace, settings.root_namespace):
            return ()
        message = f"acts for clients of namespace {key.namespace} alone: {host} is of namespace {service.namespace}"
        return (Finding("spec.exportTo", message, "warning"),)
