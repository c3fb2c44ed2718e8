"""Where a `destination` leads as a view sees it: a cluster, and what the service and its policy say of the way there.

In:  a view and a destination of the API, or a service's port and subset. Out: `Resolved`.
Rules: docs/api/VirtualService.md, docs/api/DestinationRule.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lateen.flow import Read
from lateen.pilot.model.cluster_names import cluster_name
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.policy import effective_policy, hash_policies, tcp_limits, tunnel_of
from lateen.pilot.model.routes import Resolve, Resolved
from lateen.pilot.model.values import DynamicTarget, Resolution, ServiceRef
from lateen.pilot.registry.values import Service, ServicePort

__all__ = ["Destinations", "service_ref"]


class Destinations:
    """Resolves destinations, with tracked reads."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def resolver(self, read: Read, view: View) -> Resolve:
        """Return the function that turns a `destination` of the API into a cluster, with tracked reads.

        It is made for one computation and remembers what it resolved: a thousand routes lead to a handful of places.
        """

        @cache
        def resolve(destination: Any, namespace: str, listen_port: int) -> Resolved:
            host = full_name(destination.host, namespace)
            service = self.mesh.sight.service(read, view, host)
            if service is not None and service.alias_of is not None:
                host = service.alias_of
                service = self.mesh.sight.service(read, view, host)
            number = destination.port.number if destination.port is not None else 0
            if not number:
                single = service is not None and len(service.ports) == 1
                number = service.ports[0].number if service is not None and single else listen_port
            subset = destination.subset or ""
            if service is None:
                return Resolved(cluster_name(number, subset, host))
            return self.reached(read, view, service, number, subset)

        return resolve

    def reached(self, read: Read, view: View, service: Service, number: int, subset: str) -> Resolved:
        """One port of a service or of its subset, with what its policy says about the way there."""
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        rule = self.rule(read, view, service)
        policy = effective_policy(rule, port=number, subset=subset, mesh_default=settings.default_policy)
        return Resolved(
            cluster_name(number, subset, service.hostname),
            hash_policies(policy, affinity=service.session_affinity),
            service_ref(service),
            limits=tcp_limits(rule, policy),
            retries=settings.retries,
            tunnel=tunnel_of(policy),
            dynamic=self.dynamic_target(read, service, port) if (port := service.port(number)) is not None else None,
        )

    def rule(self, read: Read, view: View, service: Service) -> Any:
        """Return the rule about `service` that holds for a view, or None."""
        return read.get(self.mesh.rule, (view.namespace, view.labels, service.hostname, service.namespace))

    def dynamic_target(self, read: Read, service: Service, port: ServicePort) -> DynamicTarget | None:
        """Return how the names asked for are looked up, where a service is reached by them; else None."""
        if service.resolution is not Resolution.DYNAMIC_DNS:
            return None
        number = port.target if isinstance(port.target, int) else port.number
        return DynamicTarget(port=number, dns_refresh=read.get(self.mesh.settings, "mesh").dns_refresh)

    def knows_dynamic(self, read: Read, view: View) -> bool:
        """Tell whether a view sees a service that is reached by the names asked for."""
        rows = [
            row
            for scope in dict.fromkeys(("*", view.namespace))
            for row in read.lookup(self.mesh.dynamic_by_scope, scope)
        ]
        if not view.scope.egress:
            return bool(rows)
        return any(self.mesh.sight.imported(read, view, row.hostname) is not None for row in rows)


def service_ref(service: Service) -> ServiceRef:
    return ServiceRef(hostname=service.hostname, name=service.name, namespace=service.namespace)
