"""Where the connections to one TCP or TLS port of a service go: its filter chains.

In:  a view, a service and its port. Out: `TcpRoute`s, the most telling first, the one that takes the rest last.
Rules: docs/api/VirtualService.md (`tcp`, `tls`); `chains.py` says which of several with one match stands.
"""

from __future__ import annotations

from dataclasses import replace

from lateen.api.names import is_partial_wildcard
from lateen.flow import Read
from lateen.pilot.model.chains import first_of_each_match
from lateen.pilot.model.cluster_names import cluster_name
from lateen.pilot.model.destinations import Destinations, service_ref
from lateen.pilot.model.mesh import View
from lateen.pilot.model.routes import Viewer, tcp_routes, tls_routes
from lateen.pilot.model.scope import Egress
from lateen.pilot.model.values import Destination, TcpRoute
from lateen.pilot.model.virtual_services import VirtualServices
from lateen.pilot.registry.values import Service, ServicePort

__all__ = ["TcpChains"]


class TcpChains:
    """Builds filter chains, with tracked reads."""

    def __init__(self, virtual_services: VirtualServices, destinations: Destinations) -> None:
        self._virtual_services = virtual_services
        self._destinations = destinations

    def of(
        self,
        read: Read,
        view: View,
        service: Service,
        port: ServicePort,
        *,
        by_address: bool,
        through: Egress | None = None,
    ) -> tuple[TcpRoute, ...]:
        """Return the filter chains for one TCP port of a service; `by_address`: its connections are no other's."""
        viewer = Viewer(namespace=view.namespace, labels=dict(view.labels))
        resolve = self._destinations.resolver(read, view)
        select = tls_routes if port.protocol.is_tls else tcp_routes
        spoken: list[TcpRoute] = []
        for _, found in self._virtual_services.speaking(
            read,
            namespace=view.namespace,
            host=service.hostname,
            importer=through or view.scope,
            acts=lambda vs: select(vs, port=port.number, viewer=viewer, resolve=resolve),
        ):
            spoken.extend(found)
        ref = service_ref(service)
        redis_proxy = service.proxies_redis(port)
        # A route says where connections go; what they speak is the port's.
        chains = [
            replace(chain, protocol=port.protocol, redis_proxy=redis_proxy) for chain in first_of_each_match(spoken)
        ]
        if not any(not chain.limited for chain in chains):
            target = cluster_name(port.number, "", service.hostname)
            # Told apart by its name where the connection's address cannot tell.
            sni = (str(service.hostname),) if port.protocol.is_tls and not by_address else ()
            subnets = () if by_address else tuple(entry for entry in service.addresses if "/" in entry)
            nameless = bool(sni) and is_partial_wildcard(service.hostname)  # Envoy takes whole labels as wildcards only
            if not (port.protocol.is_tls and spoken) and not nameless:
                reached = self._destinations.reached(read, view, service, port.number, "")
                chains.append(
                    TcpRoute(
                        destinations=(Destination(cluster=target),),
                        stat_prefix=str(target),
                        limits=reached.limits,
                        hash_source_ip=any(policy.kind == "source-ip" for policy in reached.hash_policies),
                        tunnel=reached.tunnel,
                        sni=sni,
                        subnets=subnets,
                        service=ref,
                        protocol=port.protocol,
                        dynamic=self._destinations.dynamic_target(read, service, port),
                        redis_proxy=redis_proxy,
                    )
                )
        return tuple(chains)
