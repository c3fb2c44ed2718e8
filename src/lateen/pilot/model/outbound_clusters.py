"""The clusters by which a view reaches a service: one for each port and each subset.

In:  a view and a host. Out: `ClusterInput`s. And the one cluster of a view that requests to unknown hosts go to.
Rules: docs/api/DestinationRule.md, docs/api/ServiceEntry.md.
"""

from __future__ import annotations

from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.destinations import Destinations, service_ref
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.outbound_endpoints import OutboundEndpoints, balancing_of, resolution_of, takes_mtls
from lateen.pilot.model.outbound_policy import outbound_policy
from lateen.pilot.model.places import Place
from lateen.pilot.model.policy import EffectivePolicy, balancer_of, effective_policy, upstream_tls
from lateen.pilot.model.stat_names import stat_name_of
from lateen.pilot.model.values import AutoMtls, ClusterInput, DynamicClusterInput, Hostname, MtlsMode, Resolution
from lateen.pilot.registry.values import Service, ServicePort

__all__ = ["OutboundClusters"]


class OutboundClusters:
    """The derived collections of clusters."""

    def __init__(self, mesh: Mesh, destinations: Destinations, endpoints: OutboundEndpoints) -> None:
        self.mesh = mesh
        self._destinations = destinations
        self._endpoints = endpoints
        # (view, hostname) -> tuple[ClusterInput, ...]
        self.clusters = mesh.graph.derive("clusters", self._clusters)
        # view -> DynamicClusterInput | None: where requests to unknown hosts go
        self.dynamic_cluster = mesh.graph.derive("cluster of unknown hosts", self._dynamic_cluster)

    def _clusters(self, read: Read, key: tuple[View, Hostname]) -> tuple[ClusterInput, ...]:
        view, hostname = key
        service = self.mesh.sight.service(read, view, hostname)
        if service is None or service.alias_of is not None:
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        rule = self._destinations.rule(read, view, service)
        places = self._endpoints.places(read, service)
        dns = service.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
        found = []
        for port in service.ports:
            if port.protocol is Protocol.UDP:
                continue
            for subset in ("", *(entry.name for entry in (rule.subsets if rule else ()))):
                policy = effective_policy(rule, port=port.number, subset=subset, mesh_default=settings.default_policy)
                balancing = balancing_of(policy, service, settings)
                endpoints = self._endpoints.select(read, view, service, port, subset, policy, places) if dns else ()
                if dns and not endpoints:
                    continue
                if service.resolution is Resolution.DNS_ROUND_ROBIN:
                    endpoints = endpoints[:1]  # all that such a cluster may have, however many a selector picks
                if subset and service.resolution is Resolution.DYNAMIC_DNS:
                    continue
                found.append(
                    ClusterInput(
                        service=service_ref(service),
                        port=port.number,
                        port_name=port.name,
                        protocol=port.protocol,
                        subset=subset,
                        resolution=resolution_of(service, view),
                        mesh_external=service.mesh_external,
                        for_gateway=view.kind == "gateway",
                        connect_timeout=settings.connect_timeout,
                        connection_pool=policy.connection_pool,
                        tcp_keepalive=settings.tcp_keepalive,
                        stat_name=stat_name_of(settings.outbound_stat_name, service, port, subset=subset),
                        tls_defaults=settings.tls_defaults if _world_tls(policy) else None,
                        load_balancer=balancer_of(policy, affinity=service.session_affinity),
                        outlier_detection=policy.outlier_detection,
                        locality_weighted=balancing.weighted,
                        zones=balancing.zones,
                        proxy_protocol=_proxy_protocol(policy),
                        retry_budget=policy.retry_budget,
                        h2_upgrade=settings.h2_upgrade,
                        tls=upstream_tls(policy),
                        auto_mtls=self._auto_mtls(read, service, settings, policy, port, places),
                        sans=self._sans(service, settings, places),
                        # Who else is believed, too, must be named to be dialled.
                        server_domains=settings.trust_domains if settings.federated else (),
                        endpoints=endpoints,
                        dns_refresh=settings.dns_refresh,
                        target_port=port.target if isinstance(port.target, int) else None,
                        redis_proxy=service.proxies_redis(port),
                        rule=rule.ref if rule else None,
                    )
                )
        return tuple(found)

    def _auto_mtls(
        self,
        read: Read,
        service: Service,
        settings: MeshSettings,
        policy: EffectivePolicy,
        port: ServicePort,
        places: tuple[Place, ...],
    ) -> AutoMtls:
        """Return how clients choose between mutual TLS and plain text: by what each endpoint takes.

        Istio asks the service's namespace alone: a workload whose own policy says otherwise cannot be reached there.
        """
        if policy.tls is not None or not settings.auto_mtls or service.mesh_external:
            return AutoMtls.OFF
        plain = read.get(self.mesh.port_mtls, (service.namespace, (), 0)) is MtlsMode.DISABLE
        if plain and not any(takes_mtls(self.mesh, read, place, port) for place in places):
            return AutoMtls.OFF  # the same for all, so that nothing has to be said of each
        balancer = policy.load_balancer
        simple = str(getattr(getattr(balancer, "simple", None), "value", getattr(balancer, "simple", None)) or "")
        if service.resolution is Resolution.ORIGINAL_DST or simple == "PASSTHROUGH":
            every = places and all(takes_mtls(self.mesh, read, place, port) for place in places)
            return AutoMtls.ALL if every else AutoMtls.OFF
        return AutoMtls.PER_ENDPOINT

    @staticmethod
    def _sans(service: Service, settings: MeshSettings, places: tuple[Place, ...]) -> tuple[str, ...]:
        accounts = {place.account for place in places if place.in_mesh and place.account}
        identities = {
            f"spiffe://{domain}/ns/{namespace}/sa/{account}"
            for namespace, account in accounts
            for domain in settings.trust_domains
        }
        return tuple(sorted({*identities, *service.subject_alt_names}))

    def _dynamic_cluster(self, read: Read, view: View) -> DynamicClusterInput | None:
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        refresh = outbound_policy(view, settings).dynamic_dns
        if view.kind != "sidecar" or refresh is None:
            return None
        return DynamicClusterInput(
            connect_timeout=settings.connect_timeout, dns_refresh=refresh, tls=settings.outbound_tls
        )


def _world_tls(policy: EffectivePolicy) -> bool:
    """Tell whether a rule asks for TLS that is not the mesh's own."""
    return policy.tls is not None and policy.tls.mode in ("SIMPLE", "MUTUAL")


def _proxy_protocol(policy: EffectivePolicy) -> str:
    version = getattr(policy.proxy_protocol, "version", None)
    return str(getattr(version, "value", version) or "V1") if policy.proxy_protocol is not None else ""
