"""What people are told of a Rule that its own text does not show: that it is for a Gateway that there is not."""

from __future__ import annotations

from lateen.api.base import ResourceKey
from lateen.api.rule_reading import gateway_of
from lateen.flow import Read
from lateen.pilot.model.findings import Finding
from lateen.pilot.model.mesh import Mesh

__all__ = ["MixerFindings"]


class MixerFindings:
    """The derived collection of findings of Rules."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        # Rule -> tuple[Finding, ...]
        self.found = mesh.graph.derive("mixer findings", self._found)

    def _found(self, read: Read, key: ResourceKey) -> tuple[Finding, ...]:
        obj = read.get(self._mesh.objects, key)
        gateway = gateway_of(obj) if obj is not None else ""
        if not gateway:
            return ()
        namespace, _, name = gateway.partition("/")
        if read.get(self._mesh.objects, ResourceKey("Gateway", namespace, name)) is None:
            return (Finding("spec.gateway", f"there is no Gateway {gateway}: it has no effect", "warning"),)
        return ()
