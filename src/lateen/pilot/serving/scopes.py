"""One view's slices, fed from the graph: what all of its proxies share.

A scope lives as long as a proxy uses it. Its membership (which hosts, which ports) follows live index lookups, so that
a service that comes or goes costs that service, not the list it is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from lateen.flow import Derived, Index
from lateen.pilot.model.cluster_names import parse_cluster_name
from lateen.pilot.model.gateway_servers import Note
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.names import NameEntry
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.virtual_services import HTTP_PORT
from lateen.pilot.model.visibility import Membership
from lateen.pilot.serving.gate import Gate, Place
from lateen.pilot.serving.marks import Keeper, Ledger
from lateen.pilot.serving.render import Render
from lateen.pilot.serving.slices import Choose, NamedSlice, UnionSlice, as_wanted
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.xds.references import references
from lateen.pilot.xds.source import Delta, Resource, Slice
from lateen.wire.nds import NAME_TABLE_TYPE_URL, NameInfo, build_name_table

__all__ = [
    "CDS",
    "ECDS",
    "EDS",
    "LDS",
    "NDS",
    "RDS",
    "SDS",
    "Scope",
    "Scopes",
    "ViewScope",
    "WorkloadScope",
    "name_table",
]

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
ECDS = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
NDS = NAME_TABLE_TYPE_URL

NAME_TABLE = "nametable"


class ViewScope:
    """The slices of one view, and the live outputs that feed them."""

    def __init__(self, view: View, scopes: Scopes) -> None:
        self.view = view
        self.name = str(view)
        self.users = 0
        self._scopes = scopes
        render = scopes.render
        proxyless = view.kind == "proxyless"
        self.keeper = Keeper(scopes.ledger)
        self.judged = not proxyless  # by an Envoy, which has no word in what gRPC clients are served
        # (type, name) of a listener or cluster -> its route configurations or endpoints, which are held
        self._children: dict[tuple[str, str], tuple[str, ...]] = {}
        self._left: list[tuple[NamedSlice, str]] = []  # held no more once what is staged is served
        self._extensions: tuple[str, ...] = ()  # names of extensions that patches bring, which are held
        self.clusters: UnionSlice | NamedSlice
        self.listeners: UnionSlice | NamedSlice
        if proxyless:
            self.clusters = self._named(CDS, render.proxyless_cluster)
            self.listeners = self._named(LDS, render.proxyless_listener)
            self.routes = self._named(RDS, render.proxyless_routes)
        else:
            self.clusters = UnionSlice(CDS, self.keeper)
            self.listeners = UnionSlice(LDS, self.keeper)
            self.routes = self._named(RDS, render.routes)
        self.endpoints = self._named(EDS, render.endpoints)
        self.extensions = self._named(ECDS, render.extensions)
        # For proxies that have proven who they are, see `source`. Judged when they were read: no key goes to be tasted.
        self.secrets = NamedSlice(
            SDS,
            lambda name: render.secrets.live((view, name), None),
            lambda name: render.secrets.release((view, name)),
        )
        self.names = UnionSlice(NDS)
        self._hosts: Counter[Any] = Counter()
        self._ports: Counter[int] = Counter()
        self._virtuals: dict[Any, tuple[Any, ...]] = {}  # VirtualService -> hosts it sends to
        self._entries: dict[Any, NameEntry] = {}
        self._names_touched = False
        self._memberships = scopes.outbound.memberships(view) if not proxyless else []
        if not proxyless:
            self._open()

    @property
    def slices(self) -> dict[str, tuple[Slice, ...]]:
        return {
            CDS: (self.clusters,),
            EDS: (self.endpoints,),
            LDS: (self.listeners,),
            RDS: (self.routes,),
            ECDS: (self.extensions,),
            NDS: (self.names,),
        }

    def _open(self) -> None:
        assert isinstance(self.clusters, UnionSlice)
        assert isinstance(self.listeners, UnionSlice)
        # Parts of one slice must have an order among them: hosts are (1, host), ports (2, port), fixed ones (0, ""),
        # what EnvoyFilters add (3, "").
        render = self._scopes.render
        self.keeper.select(render.filters.selected.live(self.view, ()))
        self.clusters.set_part((0, ""), render.base_clusters.live(self.view, ()))
        self.clusters.set_part((3, ""), render.added_clusters.live(self.view, ()))
        self.listeners.set_part((0, ""), render.base_listeners.live(self.view, ()))
        self.listeners.set_part((3, ""), render.added_listeners.live(self.view, ()))
        for host in self._scopes.mesh.sight.named_hosts(self.view):
            self._count_host(host, 1)
        for member in self._memberships:
            self._scopes.subscribe(member, self)
        self._scopes.note(self.view, render.notes.live(self.view, ()))

    def close(self) -> None:
        """Let everything go; nothing holds the slices any more."""
        if self.view.kind != "proxyless":
            for member in self._memberships:
                self._scopes.unsubscribe(member, self)
            for virtual in list(self._virtuals):
                self._drop_virtual(virtual)
            for host in list(self._hosts):
                self._drop_host(host)
            for port in list(self._ports):
                self._drop_port(port)
            render = self._scopes.render
            for derived in (
                render.filters.selected,
                render.base_clusters,
                render.added_clusters,
                render.base_listeners,
                render.added_listeners,
                render.notes,
            ):
                derived.release(self.view)
            self._scopes.note(self.view, ())
        for named in (self.endpoints, self.secrets, self.routes, self.extensions, self.clusters, self.listeners):
            if isinstance(named, NamedSlice):
                named.drain()
        self.keeper.close()
        self._scopes.gate.leave(self.name)

    # ---- membership

    def member_changes(self, member: Membership, added: Iterable[Any], removed: Iterable[Any]) -> None:
        """Take what came to and went from one of the memberships."""
        for keys, step in ((added, 1), (removed, -1)):
            for key in keys:
                match member.kind:
                    case "host":
                        if member.accepts(key.hostname):
                            self._count_host(key.hostname, step)
                    case "port":
                        if member.accepts(key[2].hostname):
                            self._count(self._ports, key[1], step, self._add_port, self._drop_port)
                    case "name":
                        self._count(self._ports, HTTP_PORT, step, self._add_port, self._drop_port)
                    case _:
                        self._add_virtual(key) if step > 0 else self._drop_virtual(key)

    def _count_host(self, host: Any, step: int) -> None:
        self._count(self._hosts, host, step, self._add_host, self._drop_host)

    @staticmethod
    def _count(
        counter: Counter[Any], member: Any, step: int, add: Callable[[Any], None], drop: Callable[[Any], None]
    ) -> None:
        counter[member] += step
        if step > 0 and counter[member] == 1:
            add(member)
        elif not counter[member]:
            drop(member)
            del counter[member]

    def _add_virtual(self, virtual: Any) -> None:
        """Follow where a VirtualService sends to: its destinations come into sight with it."""
        self._virtuals[virtual] = self._scopes.follow_destinations(virtual, self)
        for host in self._virtuals[virtual]:
            self._count_host(host, 1)

    def _drop_virtual(self, virtual: Any) -> None:
        self._scopes.forget_destinations(virtual, self)
        for host in self._virtuals.pop(virtual):
            self._count_host(host, -1)

    def destinations_changed(self, virtual: Any, hosts: tuple[Any, ...]) -> None:
        """Take the hosts that a followed VirtualService sends to now."""
        before, self._virtuals[virtual] = self._virtuals[virtual], hosts
        for host in hosts:
            self._count_host(host, 1)
        for host in before:
            self._count_host(host, -1)

    def _add_host(self, host: Any) -> None:
        render, key = self._scopes.render, (self.view, host)
        assert isinstance(self.clusters, UnionSlice)
        assert isinstance(self.listeners, UnionSlice)
        self.clusters.set_part((1, host), render.clusters.live(key, ()))
        if self.view.kind == "sidecar":
            self.listeners.set_part((1, host), render.service_listeners.live(key, ()))
            entry: NameEntry | None = render.names.live(key, None)
            self.set_name(host, entry)

    def _drop_host(self, host: Any) -> None:
        render, key = self._scopes.render, (self.view, host)
        assert isinstance(self.clusters, UnionSlice)
        assert isinstance(self.listeners, UnionSlice)
        self.clusters.set_part((1, host), ())
        render.clusters.release(key)
        if self.view.kind == "sidecar":
            self.listeners.set_part((1, host), ())
            render.service_listeners.release(key)
            self.set_name(host, None)
            render.names.release(key)

    def _add_port(self, port: int) -> None:
        if self.view.kind == "sidecar":
            assert isinstance(self.listeners, UnionSlice)
            self.listeners.set_part((2, str(port)), self._scopes.render.port_listeners.live((self.view, port), ()))

    def _drop_port(self, port: int) -> None:
        if self.view.kind == "sidecar":
            assert isinstance(self.listeners, UnionSlice)
            self.listeners.set_part((2, str(port)), ())
            self._scopes.render.port_listeners.release((self.view, port))

    # ---- content

    def set_name(self, host: Any, entry: NameEntry | None) -> None:
        """Take one row of the name table."""
        if entry is None:
            self._entries.pop(host, None)
        else:
            self._entries[host] = entry
        self._names_touched = True

    def entries(self) -> Iterable[NameEntry]:
        """Return the rows of the view's name table."""
        return self._entries.values()

    def settle(self) -> None:
        """Work out what follows from changed parts: the name table, and the routes that listeners name."""
        if self._names_touched:
            self._names_touched = False
            self.names.set_part((0, ""), (name_table(self._entries.values()),))
        if not self.judged:
            return
        # Held before a proxy asks, so that routes are judged with the listeners that name them and served with them.
        for name, listener in list(self.listeners.staged()):
            self._hold(self.routes, name, references(LDS, listener.body) if listener is not None else ())
        if self._scopes.gate.active:
            # A proxy may ask for the endpoints of a cluster that it was just told of when a later change, which is
            # being judged, has taken them away: what is served is a state of its own, endpoints included.
            for name, cluster in list(self.clusters.staged()):
                held = cluster is not None and parse_cluster_name(name) is not None
                self._hold(self.endpoints, name, (name,) if held else ())
        extensions = tuple(sorted({name for patch in self.keeper.selected if (name := patch.extension)}))
        if extensions != self._extensions:
            before, self._extensions = self._extensions, extensions
            for name in extensions:
                self.extensions.get(name)
            for name in before:
                self.extensions.release(name)

    def _hold(self, children: NamedSlice, parent: str, names: tuple[str, ...]) -> None:
        """Hold what a staged resource names, and what it named before until that is served no more."""
        key = (children.type_url, parent)
        before = self._children.pop(key, ())
        if names:
            self._children[key] = names
        for name in names:
            if name not in before:
                children.get(name)
        self._left += [(children, name) for name in before if name not in names]

    def served(self) -> None:
        """Let go of what only the state before the last one needed."""
        left, self._left = self._left, []
        for children, name in left:
            children.release(name)

    @property
    def render(self) -> Render:
        return self._scopes.render

    def parts(self) -> tuple[UnionSlice | NamedSlice, ...]:
        return (
            self.clusters,
            self.endpoints,
            self.listeners,
            self.routes,
            self.extensions,
            self.secrets,
            self.names,
        )

    def _named(self, type_url: str, derived: Derived[Any, Any]) -> NamedSlice:
        return NamedSlice(
            type_url,
            lambda name: derived.live((self.view, name), None),
            lambda name: derived.release((self.view, name)),
            self.keeper,
            lambda name, wanted: self._scopes.enter(self, type_url, name, wanted),
        )


class WorkloadScope:
    """The slices that only one workload's proxy has: what arrives at it."""

    judged = True

    def __init__(self, workload: str, scopes: Scopes) -> None:
        self.workload = workload
        self.name = f"workload {workload}"
        self.users = 0
        self._scopes = scopes
        self.keeper = Keeper(scopes.ledger)
        self.clusters = UnionSlice(CDS, self.keeper)
        self.listeners = UnionSlice(LDS, self.keeper)
        self.clusters.set_part((0, ""), scopes.render.inbound_clusters.live(workload, ()))
        self.listeners.set_part((0, ""), scopes.render.inbound_listeners.live(workload, ()))

    def close(self) -> None:
        self._scopes.render.inbound_clusters.release(self.workload)
        self._scopes.render.inbound_listeners.release(self.workload)
        self.keeper.close()
        self._scopes.gate.leave(self.name)

    def settle(self) -> None:
        """Nothing follows from its parts."""

    def served(self) -> None:
        """Nothing is held for its parts."""

    @property
    def render(self) -> Render:
        return self._scopes.render

    def parts(self) -> tuple[UnionSlice | NamedSlice, ...]:
        return (self.clusters, self.listeners)


Scope = ViewScope | WorkloadScope


class Scopes:
    """All scopes in use, and the way of a changed output to the slices that hold it."""

    def __init__(self, mesh: Mesh, outbound: Outbound, render: Render, gate: Gate) -> None:
        """`on_staged` is called when a scope has something new that was not there when the last batch was staged."""
        self.mesh = mesh
        self.gate = gate
        self.on_staged: Callable[[], None] | None = None
        self.outbound = outbound
        self.render = render
        self.ledger = Ledger()
        self.views: dict[View, ViewScope] = {}
        self.workloads: dict[str, WorkloadScope] = {}
        self._members: dict[tuple[Index[Any, Any], Any], dict[ViewScope, Membership]] = {}
        self._senders: dict[Any, set[ViewScope]] = {}  # key of destinations -> scopes that follow them
        self.notes: dict[View, tuple[Note, ...]] = {}  # of views in use, where there are any
        self._touched: dict[Scope, None] = {}  # with something staged
        self._fresh: dict[Scope, bool] = {}  # of them, those that nobody was served from yet
        self._wire()

    def view(self, view: View) -> ViewScope:
        """Return the scope of `view`, one user more."""
        scope = self.views.get(view)
        if scope is None:
            scope = self.views[view] = ViewScope(view, self)
            self._opened(scope)
        scope.users += 1
        return scope

    def workload(self, name: str) -> WorkloadScope:
        """Return the scope of one workload, one user more."""
        scope = self.workloads.get(name)
        if scope is None:
            scope = self.workloads[name] = WorkloadScope(name, self)
            self._opened(scope)
        scope.users += 1
        return scope

    def _opened(self, scope: Scope) -> None:
        # The first content is no change: a stream that opens asks for all of it.
        scope.settle()
        if any(True for _ in self._open_questions(scope)):
            self._fresh[scope] = True
            self._stage(scope)
        else:
            self._take(scope)

    def _stage(self, scope: Scope) -> None:
        self._touched[scope] = None
        if self.on_staged is not None:
            self.on_staged()

    def leave(self, scope: Scope) -> None:
        """Return what `view` or `workload` gave; the last user closes it."""
        scope.users -= 1
        if scope.users:
            return
        self._touched.pop(scope, None)
        self._fresh.pop(scope, None)
        if isinstance(scope, ViewScope):
            del self.views[scope.view]
        else:
            del self.workloads[scope.workload]
        scope.close()

    # ---- staged, judged, served

    def settle(self) -> None:
        """Work out what follows from what was staged. Only the scopes that a batch reached are looked at."""
        for scope in list(self._touched):
            scope.settle()

    def unjudged(self) -> list[tuple[str, Resource]]:
        """Return what is staged and not judged yet, by type URL; each content once."""
        found: dict[str, tuple[str, Resource]] = {}
        for scope in self._touched:
            for type_url, resource in self._unjudged(scope):
                found[resource.version] = (type_url, resource)
        return list(found.values())

    def unpatched(self) -> list[tuple[Place, Resource, Resource | None]]:
        """Return (place, wanted, last good) of refused resources that are to be taken apart."""
        return [entry for scope in self._touched for entry in self._unpatched(scope)]

    def _unjudged(self, scope: Scope) -> Iterator[tuple[str, Resource]]:
        if not scope.judged or not self.gate.active:
            return
        for part in scope.parts():
            if part.type_url == SDS:
                continue
            for _, resource in part.staged():
                if resource is not None and self.gate.unjudged(part.type_url, resource):
                    yield part.type_url, resource

    def _unpatched(self, scope: Scope) -> Iterator[tuple[Place, Resource, Resource | None]]:
        if not scope.judged or not self.gate.active:
            return
        for part in scope.parts():
            for name, resource in part.staged():
                place = Place(scope.name, part.type_url, name)
                served = part.all().get(name)
                if resource is not None and self.gate.unpatched(place, resource, served):
                    yield place, resource, self.gate.last_of(place, served)

    def _open_questions(self, scope: Scope) -> Iterator[object]:
        yield from self._unjudged(scope)
        yield from self._unpatched(scope)

    def open_questions(self) -> bool:
        """Tell whether something staged waits for the Envoy's word."""
        return any(True for scope in self._touched for _ in self._open_questions(scope))

    def enter(self, scope: ViewScope, type_url: str, name: str, wanted: Resource) -> Resource | None:
        """Return what is served at once under a name that somebody asks for first; None: when it is judged."""
        if not scope.judged or not self.gate.active:
            return wanted
        place = Place(scope.name, type_url, name)
        if self.gate.unjudged(type_url, wanted) or self.gate.unpatched(place, wanted, None):
            self._stage(scope)
            return None
        return self.gate.choose(place, wanted, None)

    def note(self, view: View, notes: tuple[Note, ...]) -> None:
        """Take what people are to be told of one view."""
        if notes:
            self.notes[view] = notes
        else:
            self.notes.pop(view, None)

    def take_deltas(self) -> list[Delta]:
        """Serve all that is staged, and return what that changed."""
        touched, self._touched = self._touched, {}
        deltas = []
        for scope in touched:
            taken = self._take(scope)
            if not self._fresh.pop(scope, False):
                deltas += taken
        return deltas

    def take_endpoints(self) -> list[Delta]:
        """Serve the staged endpoints that are judged, and return what that changed: they need not wait for the rest.

        Those that go wait for the clusters that go with them.
        """
        found = []
        for scope in self._touched:
            if isinstance(scope, ViewScope):
                here = [
                    name
                    for name, wanted in scope.endpoints.staged()
                    if wanted is not None and not (scope.judged and self.gate.unjudged(EDS, wanted))
                ]
                delta = scope.endpoints.take_delta(self._choose(scope, EDS), here) if here else None
                if delta is not None:
                    found.append(delta)
        return found

    def _take(self, scope: Scope) -> list[Delta]:
        deltas = [part.take_delta(self._choose(scope, part.type_url)) for part in scope.parts()]
        scope.served()
        return [delta for delta in deltas if delta is not None]

    def _choose(self, scope: Scope, type_url: str) -> Choose:
        gate = self.gate
        if not scope.judged or not gate.active or type_url == SDS:
            return as_wanted

        def choose(name: str, wanted: Resource | None, served: Resource | None) -> Resource | None:
            return gate.choose(Place(scope.name, type_url, name), wanted, served)

        return choose

    def scope_named(self, name: str) -> Scope | None:
        """Return the scope in use that a `Place` names."""
        kind, _, workload = name.partition(" ")
        if kind == "workload":
            return self.workloads.get(workload)
        return next((scope for scope in self.views.values() if scope.name == name), None)

    def subscribe(self, member: Membership, scope: ViewScope) -> None:
        """Tell `scope` the members under one index key, now and as they change."""
        self._members.setdefault((member.index, member.key), {})[scope] = member
        scope.member_changes(member, member.index.live(member.key), ())

    def unsubscribe(self, member: Membership, scope: ViewScope) -> None:
        members = self._members[member.index, member.key]
        del members[scope]
        if not members:
            del self._members[member.index, member.key]
        member.index.release(member.key)

    def follow_destinations(self, virtual: Any, scope: ViewScope) -> tuple[Any, ...]:
        """Return the hosts that a VirtualService sends to; `scope` is told as they change."""
        key = (scope.view.namespace, scope.view.scope, virtual)
        self._senders.setdefault(key, set()).add(scope)
        hosts: tuple[Any, ...] = self.mesh.sight.destinations.live(key, ())
        return hosts

    def forget_destinations(self, virtual: Any, scope: ViewScope) -> None:
        key = (scope.view.namespace, scope.view.scope, virtual)
        followers = self._senders[key]
        followers.discard(scope)
        if not followers:
            del self._senders[key]
        self.mesh.sight.destinations.release(key)

    def _wire(self) -> None:
        graph, render = self.mesh.graph, self.render
        mesh = self.mesh
        for index in (
            mesh.rows_by_scope,
            mesh.implied_by_scope,
            mesh.ports_by_scope,
            mesh.implied_ports_by_scope,
            mesh.ports_by_host,
            mesh.implied_ports_by_host,
            mesh.sight.virtual_by_owner,
            self.outbound.virtual_services.names_by_scope,
        ):
            graph.on_index_change(index, self._membership_teller(index))
        graph.on_change(mesh.sight.destinations, self._destinations_changed)
        self._route(render.clusters, lambda scope, host, value: _union(scope.clusters).set_part((1, host), value))
        self._route(
            render.service_listeners, lambda scope, host, value: _union(scope.listeners).set_part((1, host), value)
        )
        self._route(
            render.port_listeners, lambda scope, port, value: _union(scope.listeners).set_part((2, str(port)), value)
        )
        self._route(render.names, lambda scope, host, value: scope.set_name(host, value))
        self._route(render.endpoints, lambda scope, name, value: scope.endpoints.changed(name, value))
        self._route(render.routes, lambda scope, name, value: scope.routes.changed(name, value))
        self._route(render.proxyless_listener, lambda scope, name, value: _named(scope.listeners).changed(name, value))
        self._route(render.proxyless_routes, lambda scope, name, value: scope.routes.changed(name, value))
        self._route(render.proxyless_cluster, lambda scope, name, value: _named(scope.clusters).changed(name, value))
        self._route(render.extensions, lambda scope, name, value: scope.extensions.changed(name, value))
        self._of_view(render.filters.selected, lambda scope, value: scope.keeper.select(value))
        for derived, which, part in (
            (render.base_clusters, "clusters", (0, "")),
            (render.base_listeners, "listeners", (0, "")),
            (render.added_clusters, "clusters", (3, "")),
            (render.added_listeners, "listeners", (3, "")),
        ):
            self._of_view(derived, partial(_set_part, which, part))
        self._route(render.secrets, lambda scope, name, value: scope.secrets.changed(name, value))
        graph.on_change(render.notes, self._notes_changed)
        graph.on_change(render.inbound_listeners, self._inbound_teller("listeners"))
        graph.on_change(render.inbound_clusters, self._inbound_teller("clusters"))

    def _route(self, derived: Derived[Any, Any], apply: Callable[[ViewScope, Any, Any], None]) -> None:
        def tell(changes: list[tuple[Any, Any, Any]]) -> None:
            for (view, part), _, value in changes:
                scope = self.views.get(view)
                if scope is not None:
                    apply(scope, part, value)
                    self._touched[scope] = None

        self.mesh.graph.on_change(derived, tell)

    def _membership_teller(self, index: Index[Any, Any]) -> Callable[[list[tuple[Any, Any, Any]]], None]:
        def tell(changes: list[tuple[Any, Any, Any]]) -> None:
            for key, added, removed in changes:
                for scope, member in self._members.get((index, key), {}).items():
                    scope.member_changes(member, added, removed)
                    self._touched[scope] = None

        return tell

    def _destinations_changed(self, changes: list[tuple[Any, Any, Any]]) -> None:
        for key, _, hosts in changes:
            for scope in self._senders.get(key, ()):
                scope.destinations_changed(key[2], hosts)
                self._touched[scope] = None

    def _of_view(self, derived: Derived[Any, Any], apply: Callable[[ViewScope, Any], None]) -> None:
        def tell(changes: list[tuple[Any, Any, Any]]) -> None:
            for view, _, value in changes:
                scope = self.views.get(view)
                if scope is not None:
                    apply(scope, value)
                    self._touched[scope] = None

        self.mesh.graph.on_change(derived, tell)

    def _notes_changed(self, changes: list[tuple[Any, Any, Any]]) -> None:
        for view, _, notes in changes:
            if view in self.views:
                self.note(view, notes or ())

    def _inbound_teller(self, which: str) -> Callable[[list[tuple[Any, Any, Any]]], None]:
        def tell(changes: list[tuple[Any, Any, Any]]) -> None:
            for name, _, value in changes:
                scope = self.workloads.get(name)
                if scope is not None:
                    getattr(scope, which).set_part((0, ""), value)
                    self._touched[scope] = None

        return tell


def name_table(entries: Iterable[NameEntry]) -> Resource:
    """Return the name table of one view as a resource. Same rows, same bytes."""
    table = build_name_table(
        {
            str(entry.hostname): NameInfo(
                ips=entry.addresses,
                registry="Kubernetes" if entry.kubernetes else "External",
                shortname=entry.name if entry.kubernetes else "",
                namespace=entry.namespace if entry.kubernetes else "",
            )
            for entry in entries
        }
    )
    packed = resource_of(table)
    return Resource(NAME_TABLE, packed.version, packed.body)


def _set_part(which: str, part: tuple[int, str], scope: ViewScope, value: Any) -> None:
    _union(getattr(scope, which)).set_part(part, value)


def _union(one: UnionSlice | NamedSlice) -> UnionSlice:
    assert isinstance(one, UnionSlice)
    return one


def _named(one: UnionSlice | NamedSlice) -> NamedSlice:
    assert isinstance(one, NamedSlice)
    return one
