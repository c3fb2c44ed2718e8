"""The collections that all resolution stands on: what is written, what runs, and the indexes to find it by.

Inputs are set by the sources; everything else is derived and recomputed only where it reads what changed
(`lateen.flow`). Nothing here knows Envoy. Reads go through a `Read`, so that each is tracked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from lateen.api.base import Object, ResourceKey
from lateen.api.mesh_proxy import MeshProxyConfig
from lateen.api.names import is_partial_wildcard
from lateen.api.protocol import Protocol
from lateen.flow import Graph, Read
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.entry_visibility import PUBLIC, narrow, select_visibility
from lateen.pilot.model.filter_selection import chosen_patches, is_choosy
from lateen.pilot.model.hosts import full_name, host_patterns
from lateen.pilot.model.locality import asked_labels as balancing_labels
from lateen.pilot.model.locality import asks_locality, locality_of
from lateen.pilot.model.networks import GATEWAY_PORT_LABEL, GatewayService, Networks, build_networks
from lateen.pilot.model.ownership import ISTIO, NAMESPACE
from lateen.pilot.model.peer_auth import mtls_mode, ports_named
from lateen.pilot.model.policy import Rule, age_key, client_tls, clients_of, exported_to, select_rule
from lateen.pilot.model.proxy_config import effective_proxy
from lateen.pilot.model.routes import bound_gateways
from lateen.pilot.model.same_host import merge_same_host
from lateen.pilot.model.scope import ANY, EVERYTHING, Scope, scope_of
from lateen.pilot.model.server_tls import mesh_tls_of
from lateen.pilot.model.values import (
    ALLOW_ANY,
    ALLOW_ANY_DYNAMIC_DNS,
    NO_MESH_TLS,
    Hostname,
    MeshTls,
    MtlsMode,
    Resolution,
    UpstreamTls,
)
from lateen.pilot.model.values_telemetry import FileLog
from lateen.pilot.model.visibility import Sight
from lateen.pilot.registry.entries import NETWORK_LABEL, entry_labels
from lateen.pilot.registry.services import (
    IMPLIED_LABEL,
    SERVICE_KINDS,
    implied_rows,
    merge_implied,
    service_hostname,
    service_rows,
)
from lateen.pilot.registry.values import EVERYWHERE, ROOT_NAMESPACE, Service, ServiceKey, Workload

__all__ = ["PARTIAL", "Mesh", "MeshSettings", "View", "host_patterns"]

NAMESPACE_NAME = "kubernetes.io/metadata.name"  # a label that every namespace has, as in Kubernetes
ANOTHER = "@"  # the namespace of nobody: what is exported to it is exported to all
NO_FILE = FileLog(path="")
PROMETHEUS = "prometheus"  # the provider of the standard metrics
PARTIAL = "*partial"  # where `virtual_by_host` files wildcards that end within a label; no host is spelled so


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class View:
    """What all proxies that see the same are served. Two proxies of one view share every outbound resource."""

    kind: str  # "sidecar" | "gateway"
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()  # only those that some rule asks for; all of a gateway's
    locality: str = ""  # region/zone/subzone; "" too where nothing depends on it
    network: str = ""  # "" too where no network has gateways
    capture: bool = True
    http_proxy_port: int = 0
    gateway_ports: tuple[tuple[int, int], ...] = ()  # explicit mode: port of the Gateway -> port it binds
    scope: Scope = EVERYTHING  # what of the mesh it is configured for
    # EnvoyFilters that choose their proxies and chose these, with the patches: "team/lua#0,2". Those that are for their
    # whole namespace are not listed: they come and go without making another view.
    filters: tuple[str, ...] = ()
    telemetry: tuple[ResourceKey, ...] = ()  # Telemetries that chose them, likewise, in order
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Part of nearly every key of the graph, and hashed at each read: computed once.
        ways = (self.network, self.capture, self.http_proxy_port, self.gateway_ports)
        whole = (self.kind, self.namespace, self.labels, self.locality, ways, self.scope, self.filters, self.telemetry)
        object.__setattr__(self, "_hash", hash(whole))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """The part of MeshConfig that is acted on, with Istio's defaults. See docs/api/MeshConfig.md."""

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    federated: tuple[str, ...] = ()  # other trust domains whose identities are believed, sorted; never the mesh's own
    root_namespace: str = ROOT_NAMESPACE
    outbound_policy: str = ALLOW_ANY  # or ALLOW_ANY_DYNAMIC_DNS, REGISTRY_ONLY
    outbound_tls: UpstreamTls | None = None  # with ALLOW_ANY_DYNAMIC_DNS
    auto_mtls: bool = True
    connect_timeout: timedelta = timedelta(seconds=10)
    sniff_timeout: timedelta = timedelta(0)
    dns_refresh: timedelta = timedelta(seconds=60)
    h2_upgrade: bool = False
    inbound_localhost: bool = False
    retries: Any = None  # api HTTPRetry: for routes that set none
    inbound_retries: Any = None  # api HTTPRetry: from a proxy to its own application
    tcp_keepalive: Any = None  # api TcpKeepalive
    tls_defaults: Any = None  # api TLSConfig: for TLS that is not the mesh's own
    mesh_tls: MeshTls = NO_MESH_TLS
    outbound_stat_name: str = ""  # pattern, see `model.stat_names`
    inbound_stat_name: str = ""
    http_proxy_port: int = 0  # of every sidecar, on its loopback
    gateway_ownership: str = ISTIO  # or NAMESPACE: whose Gateways act on a gateway, see `model.ownership`
    host_ownership: str = NAMESPACE  # or ISTIO: who may redirect others' traffic, see `model.ownership`
    default_policy: Any = None  # api DefaultTrafficPolicy of the mesh
    locality_lb: Any = None  # api LocalityLoadBalancerSetting of the mesh
    zone_aware_lb: Any = None  # api ZoneAwareLoadBalancerSetting of the mesh
    access_log: FileLog = NO_FILE  # where neither a Telemetry nor a default provider says which
    listener_logs: bool = True
    default_metrics: tuple[str, ...] = (PROMETHEUS,)  # names of providers that act where no Telemetry names any
    default_access_logs: tuple[str, ...] = ()
    default_tracing: tuple[str, ...] = ()
    trace_by_default: bool = True  # by `tracing` of `proxy`, where nothing else names a tracer
    # exportTo of resources that write none
    entry_visibility: Any = None  # api ServiceEntryVisibility
    service_export_to: tuple[str, ...] = (EVERYWHERE,)
    virtual_export_to: tuple[str, ...] = (EVERYWHERE,)
    rule_export_to: tuple[str, ...] = (EVERYWHERE,)
    path_normalization: str = "DEFAULT"  # or NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES
    proxy: Any = None  # api MeshProxyConfig | None: defaultConfig, for proxies that start
    merge_metrics: bool = True  # agents tell their application's metrics with their own
    gateway_topology: Any = None  # api Topology of defaultConfig: what stands in front of gateways

    @property
    def dynamic_dns(self) -> timedelta | None:
        """How often hosts that only requests name are looked up again; None: unknown hosts are not looked up."""
        return self.dns_refresh if self.outbound_policy == ALLOW_ANY_DYNAMIC_DNS else None

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """The mesh's own, under all its names: what policies and server names of one mean holds for all of them."""
        return (self.trust_domain, *self.trust_domain_aliases)

    @property
    def peer_domains(self) -> tuple[str, ...]:
        """Whose identities may connect. What those of another mesh may do is for policies to say."""
        return (*self.trust_domains, *self.federated)


class Mesh:
    """Everything that is known, by key. One instance a control plane; owned by its loop."""

    def __init__(self, graph: Graph, trust_domain: str = "cluster.local") -> None:
        self.graph = graph
        self._trust_domain = trust_domain
        self.objects = graph.input("objects")  # ResourceKey -> Object
        self.workloads = graph.input("workloads")  # name -> Workload
        self.vips = graph.input("vips")  # Hostname -> address
        self.proxies = graph.input("proxies")  # workload's name -> what its connected proxy says of itself

        # "mesh" -> exportTo of services that say nothing; apart from the settings, so that those cost no service
        self.service_default = graph.derive("default exportTo of services", self._service_default)
        # namespace -> how far its ServiceEntries are seen
        self.entry_visibility = graph.derive("visibility of entries", self._entry_visibility)
        self.services = graph.table("services", self.objects, self._service_rows)
        self.implied = graph.table("implied services", self.workloads, self._implied_rows)
        self.rows_by_host = graph.index("services by host", self.services, lambda key, value: [key.hostname])
        self.implied_by_host = graph.index("implied by host", self.implied, lambda key, value: [key.hostname])
        # By what a view may ask for: (exported to, owner's namespace or "*")
        self.rows_by_scope = graph.index("services by scope", self.services, _scopes)
        self.implied_by_scope = graph.index("implied by scope", self.implied, _scopes)
        self.dynamic_by_scope = graph.index("dynamic hosts by scope", self.services, _dynamic_scopes)
        self.rows_by_selector = graph.index("services by selector", self.services, _first_selector)
        self.rows_by_port = graph.index("services by port", self.services, _scoped_ports)
        self.rows_by_address = graph.index("services by address", self.services, _scoped_addresses)
        self.implied_by_port = graph.index("implied by port", self.implied, _scoped_ports)
        # Ports in use: one row a port of a service, so that a scope's ports come and go as deltas.
        self.port_rows = graph.table("port rows", self.services, _port_rows)
        self.implied_port_rows = graph.table("implied port rows", self.implied, _port_rows)
        self.ports_by_scope = graph.index("ports by scope", self.port_rows, _port_scopes)
        self.implied_ports_by_scope = graph.index("implied ports by scope", self.implied_port_rows, _port_scopes)
        self.ports_by_host = graph.index("ports by host", self.port_rows, _port_host)
        self.implied_ports_by_host = graph.index("implied ports by host", self.implied_port_rows, _port_host)

        self.workloads_by_label = graph.index("workloads by label", self.workloads, _workload_labels)
        self.entries_by_label = graph.index("workload entries by label", self.objects, _entry_labels)

        self.rules_by_host = graph.index("rules by host", self.objects, _rule_hosts)
        self.virtual_by_host = graph.index("virtual services by host", self.objects, _virtual_hosts)
        self.virtual_by_gateway = graph.index("virtual services by gateway", self.objects, _virtual_gateways)
        self.gateways_by_label = graph.index("gateways by label", self.objects, _gateway_labels)
        self.peer_auth = graph.index("peer authentications", self.objects, _by_namespace("PeerAuthentication"))
        self.by_kind = graph.index("resources by kind", self.objects, lambda key, value: [key.kind])
        self.asked_labels = graph.index("labels rules ask for", self.objects, _asked_labels)
        # namespace of clients, "*" for all -> what makes their locality matter
        self.asks_locality = graph.index("localities asked for", self.objects, lambda key, obj: asks_locality(obj))
        self.locality_matters = graph.derive("locality matters", self._locality_matters)  # of such a namespace
        self.sidecars = graph.index("sidecars", self.objects, _by_namespace("Sidecar"))
        self.proxy_configs = graph.index("proxy configs", self.objects, _by_namespace("ProxyConfig"))
        self.choosy_filters = graph.index("envoy filters that choose", self.objects, _choosy_filters)

        self.gateway_services = graph.index("gateways of networks", self.objects, _network_gateways)
        self.networks = graph.derive("networks", self._networks)
        self.settings = graph.derive("mesh settings", self._settings)
        self.service = graph.derive("service", self._service)
        self.rule = graph.derive("rule", self._rule)
        self.port_mtls = graph.derive("mtls mode", self._port_mtls)
        # (namespace, labels of a workload) -> the ports that its PeerAuthentication names, sorted
        self.mtls_ports = graph.derive("mtls ports", self._mtls_ports)
        # (namespace, labels of a workload) -> Object of the Sidecar in force | None
        self.sidecar = graph.derive("sidecar", self._sidecar)
        # (namespace, labels of a workload) -> api MeshProxyConfig in force when its proxy starts
        self.proxy = graph.derive("proxy config", self._proxy)
        # Telemetries, by the proxies that they are for
        self.telemetries = Attachment(self, "Telemetry")
        self.view = graph.derive("view", self._view)
        self.sight = Sight(self)

    # ---- mesh-wide

    def _settings(self, read: Read, key: str) -> MeshSettings:
        objects = self.objects_of(read, read.lookup(self.by_kind, "MeshConfig"))
        if not objects:
            return MeshSettings(trust_domain=self._trust_domain)
        return _settings_of(min(objects, key=age_key).spec, self._trust_domain)

    def exported(self, read: Read, obj: Object, viewer: str) -> bool:
        """Tell whether namespace `viewer` sees a VirtualService or DestinationRule, by its exportTo or the mesh's."""
        entries = obj.spec.export_to
        if not entries:
            settings: MeshSettings = read.get(self.settings, "mesh")
            rule = obj.key.kind == "DestinationRule"
            entries = settings.rule_export_to if rule else settings.virtual_export_to
        return exported_to(entries, obj.key.namespace, viewer)

    # ---- services

    def _service_default(self, read: Read, key: str) -> tuple[str, ...]:
        settings: MeshSettings = read.get(self.settings, "mesh")
        return settings.service_export_to

    def _service_rows(self, read: Read, key: ResourceKey, obj: Object) -> Iterable[tuple[ServiceKey, Service]]:
        if key.kind not in SERVICE_KINDS:
            return ()
        rows = service_rows(obj, read.get(self.service_default, "mesh"))
        visibility = read.get(self.entry_visibility, key.namespace) if key.kind == "ServiceEntry" else PUBLIC
        if visibility == PUBLIC:
            return rows
        return [
            (row, dataclasses.replace(service, export_to=narrow(service.export_to, visibility, key.namespace)))
            for row, service in rows
        ]

    def _entry_visibility(self, read: Read, namespace: str) -> str:
        setting = read.get(self.settings, "mesh").entry_visibility
        if setting is None:
            return PUBLIC
        obj = read.get(self.objects, ResourceKey("Namespace", "", namespace))
        return select_visibility(setting, {NAMESPACE_NAME: namespace, **(obj.labels if obj is not None else {})})

    def _implied_rows(self, read: Read, name: str, workload: Workload) -> Iterable[tuple[ServiceKey, Service]]:
        return implied_rows(workload, read.get(self.service_default, "mesh")) if workload.service else ()

    def _service(self, read: Read, key: tuple[str, Hostname]) -> Service | None:
        """The service that `hostname` is, seen from a namespace: own namespace, then Services, then the oldest.

        What else is written of that host may add to it: `same_host`.
        """
        namespace, hostname = key
        candidates: list[tuple[tuple[Any, ...], Service]] = []
        for row in read.lookup(self.rows_by_host, hostname):
            service = read.get(self.services, row)
            if service is not None and _visible(service, namespace):
                rank = (service.namespace != namespace, row.registry, service.created, row.namespace, row.name)
                candidates.append((rank, service))
        if candidates:
            root = read.get(self.settings, "mesh").root_namespace
            return merge_same_host([service for _, service in sorted(candidates, key=lambda pair: pair[0])], root=root)
        implied = [read.get(self.implied, row) for row in read.lookup(self.implied_by_host, hostname)]
        rows = [service for service in implied if service is not None and _visible(service, namespace)]
        return merge_implied(rows) if rows else None

    def addresses(self, read: Read, service: Service) -> tuple[str, ...]:
        """Return the addresses that are a service's own: IPs and subnets as written, or the virtual IP it was given."""
        if service.addresses:
            return service.addresses
        given = read.get(self.vips, service.hostname, "") if service.wants_vip else ""
        return (given,) if given else ()

    def members(self, read: Read, service: Service) -> tuple[Workload, ...]:
        """Return the running workloads that a service's selector picks, by name."""
        if not service.selector:
            return ()
        names: set[str] | None = None
        for label in service.selector:
            found = set(read.lookup(self.workloads_by_label, (service.namespace, *label)))
            names = found if names is None else names & found
        workloads = (read.get(self.workloads, name) for name in sorted(names or ()))
        return tuple(workload for workload in workloads if workload is not None)

    def written_members(self, read: Read, service: Service) -> tuple[Object, ...]:
        """Return the WorkloadEntries that a service's selector picks, by key."""
        if not service.selector or service.selector[0][0] == IMPLIED_LABEL:
            return ()
        keys: set[ResourceKey] | None = None
        for label in service.selector:
            found = set(read.lookup(self.entries_by_label, (service.namespace, *label)))
            keys = found if keys is None else keys & found
        return tuple(self.objects_of(read, sorted(keys or ())))

    def objects_of(self, read: Read, keys: Iterable[ResourceKey]) -> list[Object]:
        """Return the resources of these keys, in their order."""
        found = (read.get(self.objects, key) for key in keys)
        return [obj for obj in found if obj is not None]

    def services_of(self, read: Read, workload: Workload) -> tuple[Service, ...]:
        """Return the services whose selector picks `workload`, oldest first; implied ones where no other stands."""
        found: list[tuple[tuple[Any, ...], Service]] = []
        for label, value in sorted(workload.labels.items()):
            for row in read.lookup(self.rows_by_selector, (workload.namespace, label, value)):
                service = read.get(self.services, row)
                if service is not None and all(workload.labels.get(key) == want for key, want in service.selector):
                    found.append(((row.registry, service.created, row.name), service))
        services = [service for _, service in sorted(found, key=lambda pair: pair[0])]
        for row, service in implied_rows(workload):
            if read.get(self.service, (workload.namespace, row.hostname)) not in services:
                services.append(service)
        return tuple(services)

    # ---- rules

    def _rule(self, read: Read, key: tuple[str, tuple[tuple[str, str], ...], Hostname, str]) -> Rule | None:
        """The DestinationRule for a host: of the client's namespace, of the service's, of the root namespace.

        Key: the client's namespace, its labels, the host, the service's namespace.
        """
        client, labels, hostname, owner = key
        root = read.get(self.settings, "mesh").root_namespace
        own = client != root  # in the root namespace itself, only what is kept there is a client's own rule
        for namespace, private in dict.fromkeys(((client, not own), (owner, False), (root, False))):
            if not namespace:
                continue
            for pattern in host_patterns(hostname):
                visible = (
                    rule
                    for name in read.lookup(self.rules_by_host, (namespace, pattern))
                    if (rule := read.get(self.objects, name)) is not None
                    and self.exported(read, rule, client)
                    and (namespace == client or not clients_of(rule))
                    and not (private and self.exported(read, rule, ANOTHER))
                )
                found = select_rule(visible, dict(labels))
                if found is not None:
                    return found
        return None

    def _port_mtls(self, read: Read, key: tuple[str, tuple[tuple[str, str], ...], int]) -> MtlsMode:
        """The mode of one port (0: ports no service names) of the workloads with these labels."""
        namespace, labels, port = key
        root = read.get(self.settings, "mesh").root_namespace
        own = read.lookup(self.peer_auth, namespace)
        return mtls_mode(
            self.objects_of(read, read.lookup(self.peer_auth, root)),
            self.objects_of(read, own),
            dict(labels),
            port or None,
        )

    def _mtls_ports(self, read: Read, key: tuple[str, tuple[tuple[str, str], ...]]) -> tuple[int, ...]:
        namespace, labels = key
        return ports_named(self.objects_of(read, read.lookup(self.peer_auth, namespace)), dict(labels))

    # ---- viewers

    def _sidecar(self, read: Read, key: tuple[str, tuple[tuple[str, str], ...]]) -> Object | None:
        """The Sidecar of a workload: selecting it, its namespace's, the root namespace's; of several the oldest."""
        namespace, labels = key
        own = sorted(self.objects_of(read, read.lookup(self.sidecars, namespace)), key=age_key)
        selecting = [obj for obj in own if _selector(obj) and _selector(obj) <= frozenset(labels)]
        general = [obj for obj in own if not _selector(obj)]
        if not selecting and not general:
            root = read.get(self.settings, "mesh").root_namespace
            there = sorted(self.objects_of(read, read.lookup(self.sidecars, root)), key=age_key)
            general = [obj for obj in there if not _selector(obj)]
        return next(iter([*selecting, *general]), None)

    def _view(self, read: Read, name: str) -> View | None:
        """The view of one workload's proxy."""
        workload = read.get(self.workloads, name)
        if workload is None:
            return None
        if workload.kind == "gateway":
            return View(
                kind="gateway",
                namespace=workload.namespace,
                labels=tuple(sorted(workload.labels.items())),
                locality=self._client_locality(read, workload),
                network=self._client_network(read, workload),
                capture=workload.capture,
                telemetry=self._telemetry(read, workload),
                gateway_ports=tuple(sorted((number, target) for _, number, target in workload.ports)),
                filters=self._filters(read, workload),
            )
        asked = sorted(
            (label, value) for label, value in workload.labels.items() if read.lookup(self.asked_labels, label)
        )
        return View(
            kind="sidecar",
            namespace=workload.namespace,
            labels=tuple(asked),
            locality=self._client_locality(read, workload),
            network=self._client_network(read, workload),
            capture=workload.capture,
            telemetry=self._telemetry(read, workload),
            http_proxy_port=workload.http_proxy_port,
            scope=self.scope(read, workload.namespace, workload.labels, capture=workload.capture),
            filters=self._filters(read, workload),
        )

    def _telemetry(self, read: Read, workload: Workload) -> tuple[ResourceKey, ...]:
        """Return the Telemetries that choose a workload's proxy, by age: those of its own namespace alone may."""
        labels = tuple(sorted(workload.labels.items()))
        keys = self.telemetries.keys(read, kind=workload.kind, namespace=workload.namespace, labels=labels)
        return tuple(
            key for key in keys if key.namespace == workload.namespace and self.telemetries.is_choosy(read, key)
        )

    def _networks(self, read: Read, key: str) -> Networks:
        """What is known of networks; `key` is the mesh's."""
        objects = self.objects_of(read, read.lookup(self.by_kind, "MeshNetworks"))
        labelled = self.objects_of(read, read.lookup(self.gateway_services, EVERYWHERE))

        def addresses_of(hostname: str) -> list[str]:
            owner = hostname.partition(".")[2].partition(".")[0]
            service = read.get(self.service, (owner, Hostname(hostname)))
            members = self.members(read, service) if service is not None else ()
            return [member.ip for member in members if member.ready]

        return build_networks(
            min(objects, key=age_key).spec.networks if objects else {},
            [
                GatewayService(
                    obj.labels[NETWORK_LABEL],
                    service_hostname(obj.key.name, obj.key.namespace),
                    obj.labels.get(GATEWAY_PORT_LABEL, ""),
                )
                for obj in labelled
            ],
            addresses_of,
        )

    def _client_network(self, read: Read, workload: Workload) -> str:
        networks: Networks = read.get(self.networks, "mesh")
        own = workload.network or workload.labels.get(NETWORK_LABEL, "")
        return networks.network_of(own, workload.cluster, workload.ip) if networks.gateways else ""

    def _locality_matters(self, read: Read, scope: str) -> bool:
        return bool(read.lookup(self.asks_locality, scope))

    def _client_locality(self, read: Read, workload: Workload) -> str:
        # Only where something depends on it: proxies of one namespace otherwise share one view, wherever they are.
        asked = any(read.get(self.locality_matters, scope) for scope in (EVERYWHERE, workload.namespace))
        return locality_of(workload.locality, workload.labels) if asked else ""

    def _proxy(self, read: Read, key: tuple[str, tuple[tuple[str, str], ...]]) -> MeshProxyConfig:
        namespace, labels = key
        settings: MeshSettings = read.get(self.settings, "mesh")
        root = settings.root_namespace
        return effective_proxy(
            settings.proxy,
            of_root=self.objects_of(read, read.lookup(self.proxy_configs, root)) if namespace != root else (),
            of_namespace=self.objects_of(read, read.lookup(self.proxy_configs, namespace)),
            labels=dict(labels),
        )

    def sidecars_of(self, view: View) -> list[ResourceKey]:
        """Return the Sidecars that make a view what it is: its scope is their content, which does not say whose."""
        root = self.settings.peek("mesh").root_namespace
        keys = [key for namespace in dict.fromkeys((view.namespace, root)) for key in self.sidecars.get(namespace)]
        found = ((key, self.objects.get(key)) for key in keys)
        return [
            key
            for key, obj in found
            if obj is not None and scope_of(obj.spec, view.namespace, capture=view.capture) == view.scope
        ]

    def scope(self, read: Read, namespace: str, labels: Mapping[str, str], *, capture: bool) -> Scope:
        """Return what a sidecar with these labels is configured for."""
        sidecar = read.get(self.sidecar, (namespace, tuple(sorted(labels.items()))))
        return scope_of(sidecar.spec, namespace, capture=capture) if sidecar is not None else EVERYTHING

    def _filters(self, read: Read, workload: Workload) -> tuple[str, ...]:
        """Return the choosy EnvoyFilters that are for a workload's proxy, and which of their patches."""
        return self.chosen_filters(
            read, workload.namespace, workload.labels, lambda: read.get(self.proxies, workload.name) or {}
        )

    def chosen_filters(
        self, read: Read, namespace: str, labels: Mapping[str, str], metadata: Callable[[], Mapping[str, Any]]
    ) -> tuple[str, ...]:
        """Return the choosy EnvoyFilters that are for a proxy with these labels and metadata, as `View.filters`."""
        root = read.get(self.settings, "mesh").root_namespace
        found = []
        for owner in dict.fromkeys((root, namespace)):
            for obj in self.objects_of(read, read.lookup(self.choosy_filters, owner)):
                positions = chosen_patches(obj, namespace=namespace, labels=labels, metadata=metadata)
                if positions:
                    found.append(f"{owner}/{obj.key.name}#{','.join(map(str, positions))}")
        return tuple(sorted(found))


def _visible(service: Service, namespace: str) -> bool:
    return EVERYWHERE in service.export_to or namespace in service.export_to


def _first_selector(key: ServiceKey, service: Service) -> Iterable[tuple[str, str, str]]:
    return [(service.namespace, *service.selector[0])] if service.selector else []


def _scopes(key: ServiceKey, service: Service) -> list[tuple[str, str]]:
    return [(scope, owner) for scope in service.export_to for owner in (ANY, service.namespace)]


def _scoped_ports(key: ServiceKey, service: Service) -> list[tuple[str, str, int]]:
    numbers = sorted({port.number for port in service.ports})
    return [(*scope, number) for scope in _scopes(key, service) for number in numbers]


def _port_rows(read: Read, key: ServiceKey, service: Service) -> list[tuple[tuple[str, int, ServiceKey], bool]]:
    numbers = sorted({port.number for port in service.ports if port.protocol is not Protocol.UDP})
    return [((scope, number, key), True) for scope in service.export_to for number in numbers]


def _port_scopes(key: tuple[str, int, ServiceKey], value: bool) -> list[tuple[str, str]]:
    return [(key[0], ANY), (key[0], key[2].namespace)]


def _port_host(key: tuple[str, int, ServiceKey], value: bool) -> list[Hostname]:
    return [key[2].hostname]


def _selector(obj: Object) -> frozenset[tuple[str, str]]:
    selector = obj.spec.workload_selector
    return frozenset(selector.labels.items()) if selector is not None else frozenset()


def _dynamic_scopes(key: ServiceKey, service: Service) -> Iterable[str]:
    return service.export_to if service.resolution is Resolution.DYNAMIC_DNS else ()


def _scoped_addresses(key: ServiceKey, service: Service) -> list[tuple[str, str]]:
    return [(scope, address) for scope in service.export_to for address in service.dialled if "/" not in address]


def _workload_labels(name: str, workload: Workload) -> list[tuple[str, str, str]]:
    labels = sorted(workload.labels.items())
    if workload.service:
        labels.append((IMPLIED_LABEL, workload.service))
    return [(workload.namespace, label, value) for label, value in labels]


def _entry_labels(key: ResourceKey, obj: Object) -> list[tuple[str, str, str]]:
    if key.kind != "WorkloadEntry":
        return []
    return [(key.namespace, label, value) for label, value in sorted(entry_labels(obj).items())]


def _rule_hosts(key: ResourceKey, obj: Object) -> list[tuple[str, str]]:
    if key.kind != "DestinationRule":
        return []
    return [(key.namespace, full_name(obj.spec.host, key.namespace))]


def _virtual_hosts(key: ResourceKey, obj: Object) -> list[str]:
    if key.kind != "VirtualService" or "mesh" not in _all_gateways(obj):
        return []
    hosts = {full_name(host, key.namespace) for host in obj.spec.hosts}
    return sorted({*hosts, *([PARTIAL] if any(is_partial_wildcard(host) for host in hosts) else [])})


def _virtual_gateways(key: ResourceKey, obj: Object) -> list[str]:
    return sorted(_all_gateways(obj)) if key.kind == "VirtualService" and obj.spec.hosts else []


def _all_gateways(obj: Object) -> set[str]:
    return set(bound_gateways(obj))


def _network_gateways(key: ResourceKey, obj: Object) -> list[str]:
    return [EVERYWHERE] if key.kind == "Service" and NETWORK_LABEL in obj.labels else []


def _gateway_labels(key: ResourceKey, obj: Object) -> list[tuple[str, str]]:
    if key.kind != "Gateway":
        return []
    selector = sorted((obj.spec.selector or {}).items())
    return [selector[0]] if selector else [("", "")]


def _by_namespace(kind: str) -> Any:
    return lambda key, obj: [key.namespace] if key.kind == kind else []


def _asked_labels(key: ResourceKey, obj: Object) -> list[str]:
    if key.kind == "DestinationRule":
        return sorted({*(label for label, _ in clients_of(obj)), *balancing_labels(obj)})
    if key.kind != "VirtualService":
        return balancing_labels(obj)
    rules = [*obj.spec.http, *obj.spec.tcp, *obj.spec.tls]
    return sorted({label for rule in rules for match in rule.match for label in match.source_labels or ()})


def _choosy_filters(key: ResourceKey, obj: Object) -> list[str]:
    return [key.namespace] if key.kind == "EnvoyFilter" and is_choosy(obj.spec) else []


def _settings_of(spec: Any, trust_domain: str) -> MeshSettings:
    default = MeshSettings()
    aliases = tuple(alias for alias in spec.trust_domain_aliases or () if alias != trust_domain)
    federated = {domain for each in spec.ca_certificates or () for domain in each.trust_domains}
    policy = spec.outbound_traffic_policy
    mode = str(getattr(getattr(policy, "mode", None), "value", getattr(policy, "mode", None)) or ALLOW_ANY)
    inbound = spec.inbound_traffic_policy
    inbound_mode = str(getattr(getattr(inbound, "mode", None), "value", getattr(inbound, "mode", None)) or "")
    upgrade = str(getattr(spec.h2_upgrade_policy, "value", spec.h2_upgrade_policy) or "")
    encoding = str(getattr(spec.access_log_encoding, "value", spec.access_log_encoding) or "TEXT")
    return MeshSettings(
        trust_domain=trust_domain,
        trust_domain_aliases=aliases,
        federated=tuple(sorted(federated - {trust_domain, *aliases})),
        root_namespace=spec.root_namespace or default.root_namespace,
        outbound_policy=mode,
        outbound_tls=client_tls(policy.tls) if policy is not None and policy.tls is not None else None,
        auto_mtls=True if spec.enable_auto_mtls is None else bool(spec.enable_auto_mtls),
        connect_timeout=spec.connect_timeout or default.connect_timeout,
        sniff_timeout=spec.protocol_detection_timeout or default.sniff_timeout,
        dns_refresh=spec.dns_refresh_rate or default.dns_refresh,
        h2_upgrade=upgrade == "UPGRADE",
        inbound_localhost=inbound_mode == "LOCALHOST",
        retries=_retries_of(spec.default_http_retry_policy),
        inbound_retries=spec.default_inbound_http_retry_policy,
        tcp_keepalive=spec.tcp_keepalive,
        tls_defaults=spec.tls_defaults,
        mesh_tls=mesh_tls_of(spec.mesh_mtls),
        outbound_stat_name=spec.outbound_cluster_stat_name or "",
        inbound_stat_name=spec.inbound_cluster_stat_name or "",
        http_proxy_port=spec.proxy_http_port or 0,
        gateway_ownership=NAMESPACE if spec.gateway_ownership == NAMESPACE else ISTIO,
        host_ownership=ISTIO if spec.host_ownership == ISTIO else NAMESPACE,
        default_policy=spec.default_traffic_policy,
        locality_lb=spec.locality_lb_setting,
        zone_aware_lb=spec.zone_aware_lb_setting,
        entry_visibility=spec.service_entry_visibility,
        service_export_to=spec.default_service_export_to or default.service_export_to,
        virtual_export_to=spec.default_virtual_service_export_to or default.virtual_export_to,
        rule_export_to=spec.default_destination_rule_export_to or default.rule_export_to,
        path_normalization=(spec.path_normalization and spec.path_normalization.normalization)
        or default.path_normalization,
        access_log=FileLog(
            path=spec.access_log_file or "", json=encoding == "JSON", format=spec.access_log_format or ""
        ),
        listener_logs=not spec.disable_envoy_listener_log,
        **_default_providers(spec.default_providers),
        trace_by_default=spec.enable_tracing is not False,
        proxy=spec.default_config,
        merge_metrics=spec.enable_prometheus_merge is not False,
        gateway_topology=spec.default_config.gateway_topology if spec.default_config is not None else None,
    )


def _default_providers(written: Any) -> dict[str, tuple[str, ...]]:
    fields = {"metrics": "default_metrics", "access_logging": "default_access_logs", "tracing": "default_tracing"}
    names = {field: getattr(written, field, None) for field in fields}
    return {fields[field]: found for field, found in names.items() if found is not None}


def _retries_of(policy: Any) -> Any:
    # A default for all routes has no time for each try: of that every route has its own idea.
    return msgspec.structs.replace(policy, per_try_timeout=None) if policy is not None else None
