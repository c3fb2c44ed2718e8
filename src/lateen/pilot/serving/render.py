"""Envoy resources as derived values: each is translated when, and only when, its input changed.

Two views with one input share one resource: `Interned` finds it by the bytes of the input, so that distinct resources
grow with distinct content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from lateen.api.hosts import resolve_short_name
from lateen.flow import Graph, Read
from lateen.pilot.model.claim_routes import ClaimRoutes
from lateen.pilot.model.cluster_names import parse_cluster_name
from lateen.pilot.model.credentials import Credentials
from lateen.pilot.model.egress import EgressListeners
from lateen.pilot.model.envoy_filters import (
    CLUSTERS,
    EXTENSIONS,
    INBOUND,
    LISTENERS,
    ROUTE_PARTS,
    ROUTES,
    EnvoyFilters,
    Patch,
)
from lateen.pilot.model.gateway import Gateways
from lateen.pilot.model.gateway_servers import Note
from lateen.pilot.model.gateway_tcp import parse_sni_cluster
from lateen.pilot.model.inbound import Inbound
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.names import Names
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.values import (
    Hostname,
    HttpProxyListenerInput,
    OutboundListenerInput,
    VirtualHostInput,
    VirtualOutboundInput,
)
from lateen.pilot.registry.services import CLUSTER_DOMAIN
from lateen.pilot.serving.host_bytes import HostBytes, make_host, patch_host, port_of, splice_hosts
from lateen.pilot.serving.interned import Interned
from lateen.pilot.serving.patching import (
    Apply,
    added,
    extension,
    gather,
    patch_key,
    shape,
)
from lateen.pilot.translate.clusters import build_dynamic_cluster, build_fixed_clusters, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.gateway import build_gateway_listener
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.jwt import JWT_FILTER, build_token_filter
from lateen.pilot.translate.listeners import (
    build_http_proxy_listener,
    build_outbound_listener,
    build_virtual_outbound,
)
from lateen.pilot.translate.mixer.called import build_mixer_cluster
from lateen.pilot.translate.names import INBOUND_PASSTHROUGH
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.translate.patches.clusters import added_clusters, patch_cluster
from lateen.pilot.translate.patches.listeners import added_listeners, patch_listener
from lateen.pilot.translate.patches.routes import RouteContext, acts_on_host
from lateen.pilot.translate.proxyless import build_proxyless_cluster, build_proxyless_listener, build_proxyless_routes
from lateen.pilot.translate.secrets import build_secret
from lateen.pilot.xds.source import Resource

__all__ = ["Render"]


class Render:
    """The derived collections of resources."""

    def __init__(
        self,
        mesh: Mesh,
        *,
        outbound: Outbound,
        inbound: Inbound,
        gateways: Gateways,
        credentials: Credentials,
        names: Names,
        filters: EnvoyFilters,
    ) -> None:
        self._mesh = mesh
        self._outbound = outbound
        self._inbound = inbound
        self._gateways = gateways
        self._credentials = credentials
        self._names = names
        self._egress = EgressListeners(outbound)
        self._claims = ClaimRoutes(mesh, gateways)
        self.filters = filters
        self.interned = Interned()
        graph: Graph = mesh.graph
        # (view, hostname) -> tuple[Resource, ...]
        self.clusters = graph.derive("cluster resources", self._clusters)
        # (view, hostname) -> tuple[Resource, ...]
        self.service_listeners = graph.derive("service listener resources", self._service_listeners)
        # (view, port) -> tuple[Resource, ...]
        self.port_listeners = graph.derive("port listener resources", self._port_listener)
        # view -> tuple[Resource, ...]: captures, proxies, gateway ports
        self.base_listeners = graph.derive("base listener resources", self._base_listeners)
        # view -> tuple[Resource, ...]: those that every proxy has
        self.base_clusters = graph.derive("base cluster resources", self._base_clusters)
        # view -> tuple[Resource, ...]: what EnvoyFilters add
        self.added_clusters = graph.derive("added cluster resources", self._added_clusters)
        self.added_listeners = graph.derive("added listener resources", self._added_listeners)
        # (view, name) -> Resource | None: what EnvoyFilters add, asked for by filters
        self.extensions = graph.derive("extension resources", self._extension)
        # (workload, name) -> Resource | None: what its listeners ask for
        self.inbound_extensions = graph.derive("inbound extension resources", self._inbound_extension)
        # workload -> tuple[Resource, ...]
        self.inbound_listeners = graph.derive("inbound listener resources", self._inbound_listeners)
        self.inbound_clusters = graph.derive("inbound cluster resources", self._inbound_clusters)
        # (view, name) -> Resource | None
        self.endpoints = graph.derive("endpoint resources", self._endpoints)
        self.routes = graph.derive("route resources", self._routes)
        self.secrets = graph.derive("secret resources", self._secret)
        # view -> tuple[Note, ...]: what people are to be told of what its proxies run
        self.notes = graph.derive("notes", self._notes)
        self.virtual_hosts = graph.derive("virtual host bytes", self._virtual_host)
        # view of a gateway -> tuple[Patch, ...]
        self._gateway_patches = graph.derive("gateway route patches", self._patches_of_routes)
        self.proxyless_listener = graph.derive("proxyless listeners", self._proxyless_listener)
        self.proxyless_routes = graph.derive("proxyless routes", self._proxyless_routes)
        self.proxyless_cluster = graph.derive("proxyless clusters", self._proxyless_cluster)
        # (view, hostname) -> NameEntry | None
        self.names = names.entry

    def _resource(self, build: Callable[[Any], Any], argument: Any) -> Resource:
        resource: Resource = self.interned(_to_resource(build), argument)
        return resource

    def _clusters(self, read: Read, key: tuple[View, Hostname]) -> tuple[Resource, ...]:
        inputs = read.get(self._outbound.clusters, key)
        if key[0].kind == "gateway":
            inputs = (*inputs, *read.get(self._gateways.tcp.clusters, key))
        patches = self.filters.for_host(read, key[0], CLUSTERS, key[1])
        return self._part(build_outbound_cluster, inputs, patches, _patch_cluster)

    def _service_listeners(self, read: Read, key: tuple[View, Hostname]) -> tuple[Resource, ...]:
        inputs = read.get(self._outbound.service_listeners, key)
        return self._part(build_outbound_listener, inputs, self._patches(read, key[0], LISTENERS), patch_listener)

    def _port_listener(self, read: Read, key: tuple[View, int]) -> tuple[Resource, ...]:
        found = read.get(self._outbound.port_listener, key)
        if found is None:
            return ()
        return self._part(build_outbound_listener, (found,), self._patches(read, key[0], LISTENERS), patch_listener)

    def _base_listeners(self, read: Read, view: View) -> tuple[Resource, ...]:
        patches = self._patches(read, view, LISTENERS)
        if view.kind == "gateway":
            inputs = read.get(self._gateways.listeners, view)
            return self._part(build_gateway_listener, inputs, patches, patch_listener)
        own: tuple[Any, ...] = (
            *read.get(self._outbound.base_listeners, view),
            *read.get(self._egress.listeners, view),
        )
        return self._part(_build_base_listener, own, patches, patch_listener)

    def _inbound_listeners(self, read: Read, workload: str) -> tuple[Resource, ...]:
        found = read.get(self._inbound.listeners, workload)
        if found is None:
            return ()
        listeners = build_inbound_listeners(found)
        patches = self._inbound_patches(read, workload)
        if not patches:
            return tuple(resource_of(listener) for listener in listeners)
        return gather(
            [
                *(shape(each, patches, patch_listener) for each in _each(build_inbound_listeners, found, listeners)),
                *added(patches, added_listeners),
            ]
        )

    def _inbound_clusters(self, read: Read, workload: str) -> tuple[Resource, ...]:
        found = read.get(self._inbound.listeners, workload)
        if found is None:
            return ()
        clusters = build_inbound_clusters(found)
        patches = self._inbound_patches(read, workload)
        if not patches:
            return tuple(resource_of(cluster) for cluster in clusters)
        return gather(
            [
                *(shape(each, patches, _patch_inbound) for each in _each(build_inbound_clusters, found, clusters)),
                *added(patches, added_clusters),
            ]
        )

    # ---- EnvoyFilters

    def _patches(self, read: Read, view: View, group: str) -> tuple[Patch, ...]:
        return read.get(self.filters.group, (view, group)).wide

    def _inbound_patches(self, read: Read, workload: str) -> tuple[Patch, ...]:
        view = read.get(self._mesh.view, workload)
        return self._patches(read, view, INBOUND) if view is not None else ()

    def _part(
        self, build: Callable[[Any], Any], inputs: Iterable[Any], patches: tuple[Patch, ...], apply: Apply
    ) -> tuple[Resource, ...]:
        """Translate inputs, and apply the patches where there are some."""
        if not patches:
            return tuple(self._resource(build, entry) for entry in inputs)
        key = patch_key(patches)
        name = f"{build.__qualname__} patched"
        return gather(
            self.interned.keyed(name, (entry, key), lambda one: shape(partial(build, one), patches, apply), entry)
            for entry in inputs
        )

    def _base_clusters(self, read: Read, view: View) -> tuple[Resource, ...]:
        gateway = view.kind == "gateway"
        clusters = build_fixed_clusters(for_gateway=gateway)
        dynamic = read.get(self._outbound.dynamic_cluster, view)
        if dynamic is not None:
            clusters = (*clusters, build_dynamic_cluster(dynamic))
        if gateway:
            calls = self._gateways.mixer.of(read, kind="gateway", namespace=view.namespace, labels=view.labels)
            if calls.needed:
                clusters = (*clusters, build_mixer_cluster(calls))
        patches = self._patches(read, view, CLUSTERS)
        inbound = () if gateway else self._patches(read, view, INBOUND)
        if not patches and not inbound:
            return tuple(resource_of(cluster) for cluster in clusters)
        return gather(
            shape(partial(_same, cluster), inbound, _patch_inbound)
            if cluster.name == INBOUND_PASSTHROUGH
            else shape(partial(_same, cluster), patches, _patch_cluster)
            for cluster in clusters
        )

    def _added_clusters(self, read: Read, view: View) -> tuple[Resource, ...]:
        return gather(added(self._patches(read, view, CLUSTERS), added_clusters))

    def _added_listeners(self, read: Read, view: View) -> tuple[Resource, ...]:
        return gather(added(self._patches(read, view, LISTENERS), added_listeners))

    def _extension(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        if name == JWT_FILTER and view.kind == "gateway":
            tokens = self._gateways.request_auths.tokens_of_gateway(read, view)
            return self._resource(build_token_filter, tokens)
        return extension(self._patches(read, view, EXTENSIONS), name)

    def _inbound_extension(self, read: Read, key: tuple[str, str]) -> Resource | None:
        name, wanted = key
        workload = read.get(self._mesh.workloads, name)
        if workload is None or wanted != JWT_FILTER:
            return None
        # There for whoever asks, also while no rule is: a listener that is about to lose the filter still has it.
        return self._resource(build_token_filter, self._inbound.request_auths.tokens_of_workload(read, workload))

    # ---- routes and endpoints

    def _endpoints(self, read: Read, key: tuple[View, str]) -> Resource | None:
        through = parse_sni_cluster(key[1]) is not None
        found = read.get(self._gateways.tcp.endpoints if through else self._outbound.endpoints, key)
        return self._resource(build_endpoints, found) if found is not None else None

    def _secret(self, read: Read, key: tuple[View, str]) -> Resource | None:
        found = read.get(self._credentials.secret, key)
        return self._resource(build_secret, found) if found is not None else None

    def _notes(self, read: Read, view: View) -> tuple[Note, ...]:
        return (
            *read.get(self._gateways.servers, view)[1],
            *read.get(self._credentials.notes, view),
            *read.get(self._claims.notes, view),
        )

    def _virtual_host(self, read: Read, key: Any) -> HostBytes | None:
        view = key[0]
        gateway = view.kind == "gateway"
        found: VirtualHostInput | None = read.get((self._gateways if gateway else self._outbound).virtual_host, key)
        if found is None:
            return None
        plain = make_host(found, self.interned)
        if gateway:
            known = read.get(self._gateway_patches, view)
            name, port = key[1], 0
        else:
            _, port, hostname, name = key
            known = self.filters.for_host(read, view, ROUTES, hostname)
        patches = tuple(patch for patch in known if acts_on_host(patch))
        if not patches:
            return plain
        context = self._gateway_context(read, view, name) if gateway else RouteContext(name=name, port=port)
        return patch_host(plain, patches, context, self.interned)

    def _routes(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        gateway = view.kind == "gateway"
        found = read.get((self._gateways if gateway else self._outbound).route_config, key)
        if found is None:
            return None
        shell, hosts = found
        made = [host for each in hosts if (host := read.get(self.virtual_hosts, each)) is not None]
        patches = read.get(self._gateway_patches, view) if gateway else self._patches(read, view, ROUTES)
        if not patches:
            return splice_hosts(shell, made, (), RouteContext(name=name))
        context = self._gateway_context(read, view, name) if gateway else RouteContext(name=name, port=port_of(name))
        return splice_hosts(shell, made, patches, context)

    def _gateway_context(self, read: Read, view: View, name: str) -> RouteContext:
        port, servers = self._gateways.route_servers(read, view, name)
        return RouteContext(name=name, port=port, servers=servers)

    def _patches_of_routes(self, read: Read, view: View) -> tuple[Patch, ...]:
        """Return all patches of a gateway's routes: under which host they are filed says nothing of its hosts."""
        return tuple(patch for patch in read.get(self.filters.selected, view) if patch.apply_to in ROUTE_PARTS)

    def _proxyless_listener(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        host, _, text = name.rpartition(":")
        if not text.isdecimal() or len(text) > 5:
            return None
        hostname = Hostname(resolve_short_name(host, view.namespace, CLUSTER_DOMAIN).lower())
        service = self._outbound.mesh.sight.imported(read, view, hostname)
        if service is None or service.port(int(text)) is None:
            return None
        return self._resource(build_proxyless_listener, (name, str(hostname), int(text)))

    def _proxyless_routes(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        parsed = parse_cluster_name(name)
        if parsed is None:
            return None
        port, _, hostname = parsed
        found = read.get(self._outbound.virtual_host, (view, port, hostname, name))
        return self._resource(build_proxyless_routes, (name, found)) if found is not None else None

    def _proxyless_cluster(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        parsed = parse_cluster_name(name)
        if parsed is None:
            return None
        port, subset, hostname = parsed
        inputs = read.get(self._outbound.clusters, (view, hostname))
        found = next((entry for entry in inputs if (entry.port, entry.subset) == (port, subset)), None)
        return self._resource(build_proxyless_cluster, found) if found is not None else None


_LISTENER_BUILDERS: dict[type, Callable[[Any], Any]] = {
    HttpProxyListenerInput: build_http_proxy_listener,
    OutboundListenerInput: build_outbound_listener,
    VirtualOutboundInput: build_virtual_outbound,
}


def _each(build: Callable[[Any], Sequence[Any]], inp: Any, made: Sequence[Any]) -> list[Callable[[], Any]]:
    """Return one builder a message, so that none is kept for the case that it must be built again."""
    return [partial(_nth, build, inp, at) for at in range(len(made))]


def _nth(build: Callable[[Any], Sequence[Any]], inp: Any, at: int) -> Any:
    return build(inp)[at]


def _same(message: Any) -> Any:
    return message


def _build_base_listener(inp: Any) -> Any:
    return _LISTENER_BUILDERS[type(inp)](inp)


_patch_cluster: Apply = partial(patch_cluster, inbound=False)
_patch_inbound: Apply = partial(patch_cluster, inbound=True)


def _to_resource(build: Callable[[Any], Any]) -> Callable[[Any], Resource]:
    known = _BUILDERS.get(build)
    if known is None:

        def made(argument: Any) -> Resource:
            return resource_of(build(argument))

        made.__qualname__ = build.__qualname__
        known = _BUILDERS[build] = made
    return known


_BUILDERS: dict[Callable[[Any], Any], Callable[[Any], Resource]] = {}
