"""What a view sends to: clusters, endpoints, listeners and routes, resolved.

Every function here is derived: of a view and a host, a port or a name; it reads through `Read` and decides by the rules
of docs/api/. One service's change touches that service's clusters, endpoints and virtual host, and the lists it is in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from lateen.api.names import is_partial_wildcard
from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.chains import first_of_each_match
from lateen.pilot.model.domains import service_domains
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.locality import HOST_LABEL, Balancing, Client, arrange, select_balancing
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.networks import Networks, Reached, through_gateways
from lateen.pilot.model.places import THIS_MACHINE, Place
from lateen.pilot.model.policy import (
    EffectivePolicy,
    balancer_of,
    effective_policy,
    hash_policies,
    tcp_limits,
    tunnel_of,
    upstream_tls,
)
from lateen.pilot.model.routes import (
    Resolve,
    Resolved,
    Viewer,
    default_route,
    http_routes,
    tcp_routes,
    tls_routes,
)
from lateen.pilot.model.scope import Egress
from lateen.pilot.model.stat_names import stat_name_of
from lateen.pilot.model.values import (
    AutoMtls,
    Cluster,
    ClusterInput,
    Destination,
    DynamicClusterInput,
    DynamicTarget,
    EndpointInput,
    EndpointsInput,
    Hostname,
    HttpProxyListenerInput,
    MtlsMode,
    OutboundListenerInput,
    Resolution,
    RouteConfigInput,
    ServiceRef,
    TcpRoute,
    VirtualHostInput,
    VirtualOutboundInput,
    ZoneAware,
)
from lateen.pilot.model.virtual_services import HTTP_PORT, VirtualServices
from lateen.pilot.model.visibility import Membership, service_age
from lateen.pilot.registry.entries import written_endpoint
from lateen.pilot.registry.values import Service, ServicePort
from lateen.wire.local_cluster import parse_local_endpoints_name

__all__ = ["HTTP_PROXY_ROUTE", "Outbound", "cluster_name", "parse_cluster_name"]

HTTP_PROXY_ROUTE = "http_proxy"
WILDCARD = "0.0.0.0"  # noqa: S104  # the bind of a listener that captures, not one that is open to the world
RESERVED_PORTS = frozenset({15001, 15006, 15021, 15090})  # Envoy's own listeners: a service port there is not captured


def cluster_name(port: int, subset: str, hostname: str) -> Cluster:
    """Return the name of an outbound cluster, as Istio's tools read it."""
    return Cluster(f"outbound|{port}|{subset}|{hostname}")


def parse_cluster_name(name: str) -> tuple[int, str, Hostname] | None:
    """Return (port, subset, hostname) of an outbound cluster's name; None for any other name."""
    parts = name.split("|", 3)
    if len(parts) != 4 or parts[0] != "outbound" or not parts[1].isdecimal() or len(parts[1]) > 5:
        return None
    return int(parts[1]), parts[2], Hostname(parts[3])


class Outbound:
    """The derived collections of everything that leaves a proxy."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.virtual_services = VirtualServices(mesh)
        graph = mesh.graph
        # (view, hostname) -> tuple[ClusterInput, ...]
        self.clusters = graph.derive("clusters", self._clusters)
        # (view, cluster's name) -> EndpointsInput | None
        self.endpoints = graph.derive("endpoints", self._endpoints)
        # view -> DynamicClusterInput | None: where requests to unknown hosts go
        self.dynamic_cluster = graph.derive("cluster of unknown hosts", self._dynamic_cluster)
        # (view, hostname) -> tuple[OutboundListenerInput, ...]: those bound to the service's own address
        self.service_listeners = graph.derive("service listeners", self._service_listeners)
        # (view, port) -> OutboundListenerInput | None: the one all HTTP services of a port share
        self.port_listener = graph.derive("port listener", self._port_listener)
        # view -> the listeners every proxy of it has
        self.base_listeners = graph.derive("base listeners", self._base_listeners)
        # (view, port, hostname, name of the route configuration) -> VirtualHostInput | None
        self.virtual_host = graph.derive("virtual host", self._virtual_host)
        # (view, name) -> (RouteConfigInput without virtual hosts, keys of virtual hosts, others) | None
        self.route_config = graph.derive("route configuration", self._route_config)

    def memberships(self, view: View) -> list[Membership]:
        """Return the index keys to follow for what `view` is served."""
        return [*self.mesh.sight.memberships(view), *self.virtual_services.memberships(view)]

    # ---- clusters

    def _clusters(self, read: Read, key: tuple[View, Hostname]) -> tuple[ClusterInput, ...]:
        view, hostname = key
        service = self.mesh.sight.service(read, view, hostname)
        if service is None or service.alias_of is not None:
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        rule = self._rule_for(read, view, service)
        places = self._places(read, service)
        dns = service.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
        found = []
        for port in service.ports:
            if port.protocol is Protocol.UDP:
                continue
            for subset in ("", *(entry.name for entry in (rule.subsets if rule else ()))):
                policy = effective_policy(rule, port=port.number, subset=subset, mesh_default=settings.default_policy)
                balancing = self._balancing(policy, service, settings)
                endpoints = self._select(read, view, service, port, subset, policy, places) if dns else ()
                if dns and not endpoints:
                    continue
                if service.resolution is Resolution.DNS_ROUND_ROBIN:
                    endpoints = endpoints[:1]  # all that such a cluster may have, however many a selector picks
                if subset and service.resolution is Resolution.DYNAMIC_DNS:
                    continue
                found.append(
                    ClusterInput(
                        service=_service_ref(service),
                        port=port.number,
                        port_name=port.name,
                        protocol=port.protocol,
                        subset=subset,
                        resolution=self._resolution(service, view),
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
                        auto_mtls=self._auto_mtls(read, service, settings, policy, places),
                        sans=self._sans(service, settings, places),
                        endpoints=endpoints,
                        dns_refresh=settings.dns_refresh,
                        target_port=port.target if isinstance(port.target, int) else None,
                        redis_proxy=service.proxies_redis(port),
                        rule=rule.ref if rule else None,
                    )
                )
        return tuple(found)

    @staticmethod
    def _resolution(service: Service, view: View) -> Resolution:
        # A gateway is nobody's capture: there is no original destination, so it picks endpoints itself.
        if view.kind == "gateway" and service.resolution is Resolution.ORIGINAL_DST:
            return Resolution.EDS
        return service.resolution

    def _rule_for(self, read: Read, view: View, service: Service) -> Any:
        return read.get(self.mesh.rule, (view.namespace, view.labels, service.hostname, service.namespace))

    def _auto_mtls(
        self,
        read: Read,
        service: Service,
        settings: MeshSettings,
        policy: EffectivePolicy,
        places: tuple[Place, ...],
    ) -> AutoMtls:
        if policy.tls is not None or not settings.auto_mtls or service.mesh_external:
            return AutoMtls.OFF
        if read.get(self.mesh.port_mtls, (service.namespace, (), 0)) is MtlsMode.DISABLE:
            return AutoMtls.OFF
        balancer = policy.load_balancer
        simple = str(getattr(getattr(balancer, "simple", None), "value", getattr(balancer, "simple", None)) or "")
        if service.resolution is Resolution.ORIGINAL_DST or simple == "PASSTHROUGH":
            return AutoMtls.ALL if places and all(place.auto_mtls for place in places) else AutoMtls.OFF
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

    # ---- endpoints

    def _endpoints(self, read: Read, key: tuple[View, str]) -> EndpointsInput | None:
        view, name = key
        own = parse_local_endpoints_name(name)
        if own is not None:
            return self._own_endpoints(read, view, name, Hostname(own))
        parsed = parse_cluster_name(name)
        if parsed is None:
            return None
        number, subset, hostname = parsed
        service = self.mesh.sight.service(read, view, hostname)
        port = service.port(number) if service is not None else None
        if service is None or port is None or self._resolution(service, view) is not Resolution.EDS:
            return None
        rule = self._rule_for(read, view, service)
        if subset and (rule is None or rule.subset(subset) is None):
            return None
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        policy = effective_policy(rule, port=number, subset=subset, mesh_default=settings.default_policy)
        places = self._places(read, service)
        return EndpointsInput(
            cluster=Cluster(name), endpoints=self._select(read, view, service, port, subset, policy, places)
        )

    def _own_endpoints(self, read: Read, view: View, name: str, hostname: Hostname) -> EndpointsInput | None:
        """Where a client's own service is served, its region first: by that Envoy shares between zones."""
        service = read.get(self.mesh.service, (view.namespace, hostname))
        port = next((port for port in service.ports if port.protocol is not Protocol.UDP), None) if service else None
        if service is None or port is None or service.resolution is not Resolution.EDS:
            return None
        regions = Balancing(by_locality=True, zones=ZoneAware())
        places = self._places(read, service)
        chosen = self._select(read, view, service, port, "", EffectivePolicy(), places, balancing=regions)
        return EndpointsInput(cluster=Cluster(name), endpoints=chosen)

    def _places(self, read: Read, service: Service) -> tuple[Place, ...]:
        """Everything that serves `service`: running workloads, WorkloadEntries, endpoints written in it."""
        places = [Place.of_workload(workload) for workload in self.mesh.members(read, service)]
        for obj in self.mesh.written_members(read, service):
            endpoint = written_endpoint(obj)
            if endpoint is not None:
                places.append(Place.of_written(endpoint))
        places.extend(Place.of_written(endpoint) for endpoint in service.endpoints)
        return tuple(places)

    def _select(
        self,
        read: Read,
        view: View,
        service: Service,
        port: ServicePort,
        subset: str,
        policy: EffectivePolicy,
        places: tuple[Place, ...],
        *,
        balancing: Balancing | None = None,  # None: as the policy has it
    ) -> tuple[EndpointInput, ...]:
        wanted: Iterable[tuple[str, str]] = ()
        if subset:
            rule = self._rule_for(read, view, service)
            chosen = rule.subset(subset) if rule else None
            wanted = tuple((chosen.labels or {}).items()) if chosen is not None else ()
        tls = upstream_tls(policy)
        dns = service.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        client = Client(locality=view.locality, labels=dict(view.labels))
        node = client.labels.get(HOST_LABEL, THIS_MACHINE)
        networks: Networks = read.get(self.mesh.networks, "mesh")
        found: list[Reached] = []
        for place in places:
            if service.node_local and place.node != node:
                continue
            if not place.ready and not service.publish_not_ready:
                continue
            if any(place.labels.get(label) != value for label, value in wanted):
                continue
            number = place.port_for(port)
            if number is None or (place.address and (place.is_unix if dns else not place.has_address)):
                continue  # a name instead of an address is for DNS to look up, and EDS would be refused with it
            if tls is not None:
                mtls = tls.mode == "ISTIO_MUTUAL"
            else:
                labels = tuple(sorted(place.labels.items()))
                mode = read.get(self.mesh.port_mtls, (place.namespace, labels, number)) if place.auto_mtls else None
                mtls = place.auto_mtls and not service.mesh_external and mode is not MtlsMode.DISABLE
            endpoint = EndpointInput(
                address=place.address,
                port=number,
                weight=place.weight,
                mtls=mtls,
                locality=place.locality,
                peer=place.peer,
            )
            network = networks.network_of(place.network, place.registry, place.address)
            found.append(Reached(place.labels, network, endpoint))
        reached = through_gateways(found, networks, view.network)
        return arrange(reached, balancing or self._balancing(policy, service, settings), client)

    @staticmethod
    def _balancing(policy: EffectivePolicy, service: Service, settings: MeshSettings) -> Balancing:
        return select_balancing(
            policy.load_balancer,
            policy.outlier_detection,
            distribution=service.distribution,
            mesh_locality=settings.locality_lb,
            mesh_zones=settings.zone_aware_lb,
        )

    # ---- listeners

    def _base_listeners(self, read: Read, view: View) -> tuple[VirtualOutboundInput | HttpProxyListenerInput, ...]:
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        if view.kind != "sidecar":
            return ()
        found: list[VirtualOutboundInput | HttpProxyListenerInput] = []
        if view.capture:
            policy = outbound_policy(view, settings)
            found.append(
                VirtualOutboundInput(
                    policy=policy.mode,
                    egress_proxy=policy.egress_proxy,
                    dynamic_dns=policy.dynamic_dns,
                    sniff_timeout=settings.sniff_timeout if policy.dynamic_dns is not None else timedelta(0),
                    telemetry=settings.telemetry,
                )
            )
        # Where nothing is captured, workloads share one loopback: only the agent knows a port that is free.
        port = settings.http_proxy_port if view.capture else view.http_proxy_port
        if port:
            found.append(
                HttpProxyListenerInput(
                    bind="127.0.0.1",
                    port=port,
                    # Its requests may be for any port, so for any host that is looked up.
                    dynamic_dns=settings.dns_refresh
                    if self.knows_dynamic(read, view)
                    else outbound_policy(view, settings).dynamic_dns,
                    telemetry=settings.telemetry,
                )
            )
        return tuple(found)

    def _port_listener(self, read: Read, key: tuple[View, int]) -> OutboundListenerInput | None:
        """The listener on a port's wildcard address: HTTP of all services, and TCP of those without an address."""
        view, number = key
        if view.kind != "sidecar" or not view.capture or number in RESERVED_PORTS:
            return None
        through = view.scope.at(number)
        if view.scope.egress and through is None:
            return None  # no listener of the Sidecar is for this port
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        http = False
        dynamic = outbound_policy(view, settings).dynamic_dns
        chains: list[TcpRoute] = []
        for service in self.mesh.sight.on_port(read, view, number, through):
            port = service.port(number)
            if port is None or service.alias_of is not None:
                continue
            spoken = spoken_on(port, through)
            if spoken.is_http:
                http = True
                if service.resolution is Resolution.DYNAMIC_DNS:
                    dynamic = settings.dns_refresh
            elif spoken is not Protocol.UDP and self._shares_wildcard(read, view, service):
                port = replace(port, protocol=spoken)
                chains.extend(self.tcp_chains(read, view, service, port, by_address=False, through=through))
        if not http and number == HTTP_PORT:
            http = bool(self.virtual_services.unregistered(read, view, port=number, served=(), importer=through))
        if not http and not chains:
            return None
        policy = outbound_policy(view, settings)
        return OutboundListenerInput(
            bind=WILDCARD,
            port=number,
            http_route=str(number) if http else "",
            tcp=first_of_each_match(chains),
            policy=policy.mode,
            egress_proxy=policy.egress_proxy,
            dynamic_dns=dynamic if http else None,
            sniff_timeout=settings.sniff_timeout,
            telemetry=settings.telemetry,
        )

    def _service_listeners(self, read: Read, key: tuple[View, Hostname]) -> tuple[OutboundListenerInput, ...]:
        """The listeners on a service's own addresses: its TCP ports, and those whose protocol is to be found out."""
        view, hostname = key
        service = self.mesh.sight.imported(read, view, hostname)
        if service is None or service.alias_of is not None or view.kind != "sidecar" or not view.capture:
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        policy = outbound_policy(view, settings)
        binds = self._own_binds(read, view, service)
        found = []
        for port in service.ports:
            through = view.scope.through(service.namespace, hostname, port.number)
            if view.scope.egress and through is None:
                continue  # it is reached through a socket of the Sidecar's only
            spoken = spoken_on(port, through)
            if spoken.is_http or spoken is Protocol.UDP or port.number in RESERVED_PORTS:
                continue
            port = replace(port, protocol=spoken)
            own = self.tcp_chains(read, view, service, port, by_address=True, through=through)
            for bind in binds:
                sharers = self._sharers(read, view, service, bind, port.number)
                if sharers[0].hostname != hostname:
                    continue  # the oldest of them brings the listener of all
                chains = own
                if len(sharers) > 1:
                    every = (
                        self.tcp_chains(
                            read, view, sharer, shared, by_address=not shared.protocol.is_tls, through=through
                        )
                        for sharer in sharers
                        if (shared := sharer.port(port.number)) is not None
                    )
                    chains = first_of_each_match(chain for part in every for chain in part)
                found.append(
                    OutboundListenerInput(
                        bind=bind,
                        port=port.number,
                        http_route=f"{hostname}:{port.number}" if spoken is Protocol.AUTO else "",
                        tcp=chains,
                        policy=policy.mode,
                        egress_proxy=policy.egress_proxy,
                        sniff_timeout=settings.sniff_timeout,
                        telemetry=settings.telemetry,
                    )
                )
        return tuple(found)

    def _own_binds(self, read: Read, view: View, service: Service) -> tuple[str, ...]:
        """The addresses by which a service's connections can be told from others': its own, or its workloads'."""
        own = self.mesh.addresses(read, service)
        if not own and service.headless:
            own = tuple(sorted({place.address for place in self._places(read, service) if place.has_address}))
        return tuple(address for address in (*own, *service.external_ips) if "/" not in address)

    def _shares_wildcard(self, read: Read, view: View, service: Service) -> bool:
        """Tell whether connections to `service` come to a port's wildcard listener: no IP, or a subnet, is its own."""
        return any("/" in address for address in service.addresses) or not self._own_binds(read, view, service)

    def _sharers(self, read: Read, view: View, service: Service, address: str, number: int) -> list[Service]:
        """The services whose connections arrive at one address and port, oldest first: one, unless several write it."""
        if address not in service.dialled:
            return self._headless_sharers(read, view, service, address, number) if service.headless else [service]
        rows = {
            row.hostname
            for scope in dict.fromkeys(("*", view.namespace))
            for row in read.lookup(self.mesh.rows_by_address, (scope, address))
        }
        found = []
        for host in rows:
            other = self.mesh.sight.imported(read, view, host)
            if other is not None and address in other.dialled and _carries_bytes(other, number):
                found.append(other)
        return sorted(found, key=service_age)

    def _headless_sharers(self, read: Read, view: View, service: Service, address: str, number: int) -> list[Service]:
        """The headless services that one workload serves on one port, oldest first."""
        found = [service]
        for workload in self.mesh.members(read, service):
            if workload.ip == address:
                found.extend(
                    other
                    for other in self.mesh.services_of(read, workload)
                    if other not in found
                    and other.headless
                    and _carries_bytes(other, number)
                    and self.mesh.sight.imported(read, view, other.hostname) == other
                )
        return sorted(found, key=service_age)

    def _dynamic_target(self, read: Read, service: Service, port: ServicePort) -> DynamicTarget | None:
        if service.resolution is not Resolution.DYNAMIC_DNS:
            return None
        number = port.target if isinstance(port.target, int) else port.number
        return DynamicTarget(port=number, dns_refresh=read.get(self.mesh.settings, "mesh").dns_refresh)

    def knows_dynamic(self, read: Read, view: View) -> bool:
        rows = [
            row
            for scope in dict.fromkeys(("*", view.namespace))
            for row in read.lookup(self.mesh.dynamic_by_scope, scope)
        ]
        if not view.scope.egress:
            return bool(rows)
        return any(self.mesh.sight.imported(read, view, row.hostname) is not None for row in rows)

    def _dynamic_cluster(self, read: Read, view: View) -> DynamicClusterInput | None:
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        refresh = outbound_policy(view, settings).dynamic_dns
        if view.kind != "sidecar" or refresh is None:
            return None
        return DynamicClusterInput(
            connect_timeout=settings.connect_timeout, dns_refresh=refresh, tls=settings.outbound_tls
        )

    def tcp_chains(
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
        resolve = self.resolver(read, view)
        select = tls_routes if port.protocol.is_tls else tcp_routes
        spoken: list[TcpRoute] = []
        for _, found in self.virtual_services.speaking(
            read,
            namespace=view.namespace,
            host=service.hostname,
            importer=through or view.scope,
            acts=lambda vs: select(vs, port=port.number, viewer=viewer, resolve=resolve),
        ):
            spoken.extend(found)
        ref = _service_ref(service)
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
                reached = self._reached(read, view, service, port.number, "")
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
                        dynamic=self._dynamic_target(read, service, port),
                        redis_proxy=redis_proxy,
                    )
                )
        return tuple(chains)

    # ---- routes

    def _route_config(self, read: Read, key: tuple[View, str]) -> tuple[RouteConfigInput, tuple[Any, ...]] | None:
        """A route configuration without its virtual hosts, and the keys of those (`virtual_host`) in order."""
        view, name = key
        if view.kind != "sidecar":
            return None
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        policy = outbound_policy(view, settings)
        placed = view.scope.named(name)
        if name == HTTP_PROXY_ROUTE or (placed is not None and proxies(placed)):
            keys = [
                (view, number, service.hostname, name)
                for number in self.mesh.sight.ports(read, view)
                for service in self.mesh.sight.on_port(read, view, number, placed)
                if (port := service.port(number)) and (port.protocol.is_http or port.protocol is Protocol.AUTO)
            ]
            served = [host for _, number, host, _ in keys if number == HTTP_PORT]
            unregistered = self.virtual_services.unregistered(
                read, view, port=HTTP_PORT, served=served, importer=placed
            )
            keys.extend((view, HTTP_PORT, host, name) for host in unregistered)
            return RouteConfigInput(
                name=name,
                virtual_hosts=(),
                catch_all=policy.mode,
                egress_proxy=policy.egress_proxy,
                ignore_port_in_host=False,
            ), tuple(keys)
        if placed is not None:
            services = self.mesh.sight.on_port(read, view, placed.port, placed)
            hosts = [service.hostname for service in services if service.alias_of is None]
            hosts.extend(
                self.virtual_services.unregistered(read, view, port=placed.port, served=hosts, importer=placed)
            )
            return RouteConfigInput(
                name=name, virtual_hosts=(), catch_all=policy.mode, egress_proxy=policy.egress_proxy
            ), tuple((view, placed.port, host, name) for host in hosts)
        host, colon, text = name.rpartition(":")
        if not text.isdecimal() or len(text) > 5:
            return None
        number = int(text)
        if colon:
            return RouteConfigInput(name=name, virtual_hosts=()), ((view, number, Hostname(host), name),)
        through = view.scope.at(number)
        if view.scope.egress and through is None:
            return None
        hosts = [
            service.hostname
            for service in self.mesh.sight.on_port(read, view, number, through)
            if service.alias_of is None and (port := service.port(number)) and spoken_on(port, through).is_http
        ]
        hosts.extend(self.virtual_services.unregistered(read, view, port=number, served=hosts, importer=through))
        return RouteConfigInput(
            name=name, virtual_hosts=(), catch_all=policy.mode, egress_proxy=policy.egress_proxy
        ), tuple((view, number, host, name) for host in sorted(dict.fromkeys(hosts)))

    def _virtual_host(self, read: Read, key: tuple[View, int, Hostname, str]) -> VirtualHostInput | None:
        view, number, hostname, config = key
        service = self.mesh.sight.imported(read, view, hostname)
        placed = view.scope.named(config)
        through = placed or (None if config == HTTP_PROXY_ROUTE else view.scope.at(number))
        if service is not None and ":" in config:
            through = view.scope.through(service.namespace, hostname, number)
        viewer = Viewer(namespace=view.namespace, labels=dict(view.labels))
        resolve = self.resolver(read, view)
        spoken = next(
            self.virtual_services.speaking(
                read,
                namespace=view.namespace,
                host=hostname,
                importer=through or view.scope,
                acts=lambda vs: http_routes(vs, port=number, viewer=viewer, resolve=resolve),
            ),
            None,
        )
        if spoken is not None:
            routes = spoken[1]
        elif service is not None:
            reached = self._reached(read, view, service, number, "")
            routes = (default_route(hostname, number, reached),)
        else:
            return None
        proxied = config == HTTP_PROXY_ROUTE or (placed is not None and proxies(placed))
        if ":" in config and placed is None:
            domains: tuple[str, ...] = ("*",)
        elif service is None:
            domains = (str(hostname), f"{hostname}:{number}") if proxied else (str(hostname),)
        else:
            domains = service_domains(
                hostname,
                view.namespace,
                (*self.mesh.addresses(read, service), *service.external_ips),
                headless=service.headless,
                ports=(number,) if proxied else (),
            )
            if proxied and number != 80 and not _only_on(service, placed):
                domains = tuple(domain for domain in domains if domain.endswith(f":{number}"))
        return VirtualHostInput(name=f"{hostname}:{number}", domains=domains, routes=routes)

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
            return self._reached(read, view, service, number, subset)

        return resolve

    def _reached(self, read: Read, view: View, service: Service, number: int, subset: str) -> Resolved:
        """One port of a service or of its subset, with what its policy says about the way there."""
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        rule = self._rule_for(read, view, service)
        policy = effective_policy(rule, port=number, subset=subset, mesh_default=settings.default_policy)
        return Resolved(
            cluster_name(number, subset, service.hostname),
            hash_policies(policy, affinity=service.session_affinity),
            _service_ref(service),
            limits=tcp_limits(rule, policy),
            retries=settings.retries,
            tunnel=tunnel_of(policy),
            dynamic=self._dynamic_target(read, service, port) if (port := service.port(number)) is not None else None,
        )


def _world_tls(policy: EffectivePolicy) -> bool:
    """Tell whether a rule asks for TLS that is not the mesh's own."""
    return policy.tls is not None and policy.tls.mode in ("SIMPLE", "MUTUAL")


def _carries_bytes(service: Service, number: int) -> bool:
    """Tell whether a port of a service is one whose connections only their destination tells apart."""
    port = service.port(number)
    return port is not None and not port.protocol.is_http and port.protocol is not Protocol.UDP


def _service_ref(service: Service) -> ServiceRef:
    return ServiceRef(hostname=service.hostname, name=service.name, namespace=service.namespace)


def _proxy_protocol(policy: EffectivePolicy) -> str:
    version = getattr(policy.proxy_protocol, "version", None)
    return str(getattr(version, "value", version) or "V1") if policy.proxy_protocol is not None else ""


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


def _only_on(service: Service, entry: Egress | None) -> bool:
    """Tell whether a socket's client that names no port can only mean one: the service has no other."""
    return entry is not None and not entry.port and len(service.ports) == 1


def proxies(entry: Egress) -> bool:
    """Tell whether clients of a placed listener name the port beside the host: a proxy's, and those of sockets."""
    return not entry.port or entry.declared is Protocol.HTTP_PROXY
