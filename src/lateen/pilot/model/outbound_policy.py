"""What a view says of traffic that leaves it: its Sidecar does, else the mesh, or the service's port.

Rules: docs/api/Sidecar.md, docs/api/MeshConfig.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from lateen.api.protocol import Protocol
from lateen.pilot.model.cluster_names import cluster_name
from lateen.pilot.model.mesh import MeshSettings, View
from lateen.pilot.model.scope import Egress
from lateen.pilot.model.values import Cluster
from lateen.pilot.registry.values import ServicePort

__all__ = ["OutboundPolicy", "outbound_policy", "spoken_on"]


class OutboundPolicy(NamedTuple):
    """What becomes of traffic that nothing is known of."""

    mode: str
    egress_proxy: Cluster | None  # where ALLOW_ANY sends it, if not to where it was meant for
    dynamic_dns: timedelta | None  # how often hosts that only requests name are looked up again; None: never


def outbound_policy(view: View, settings: MeshSettings) -> OutboundPolicy:
    """Return the outbound traffic policy of a view: its Sidecar's, else the mesh's."""
    scope = view.scope
    if not scope.policy:
        return OutboundPolicy(settings.outbound_policy, None, settings.dynamic_dns)
    proxy = scope.egress_proxy
    return OutboundPolicy(scope.policy, cluster_name(proxy[2], proxy[1], proxy[0]) if proxy else None, None)


def spoken_on(port: ServicePort, through: Egress | None) -> Protocol:
    """Return what is spoken with a service: what the Sidecar's listener declares, else what the port says."""
    declared = through.declared if through is not None and through.port else None
    return declared or port.protocol
