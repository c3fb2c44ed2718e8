"""All scopes in use: opened and closed with their users, told of changes, judged, served.

A scope is what the proxies of one view share (`view_scope.py`), or what one workload's proxy has alone
(`workload_scope.py`); it lives as long as a proxy uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lateen.flow import Derived
from lateen.pilot.model.gateway_servers import Note
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.serving.following import Following
from lateen.pilot.serving.gate import Gate, Place
from lateen.pilot.serving.marks import Ledger
from lateen.pilot.serving.render import Render
from lateen.pilot.serving.slices import Choose, NamedSlice, UnionSlice, as_wanted
from lateen.pilot.serving.view_scope import ViewScope
from lateen.pilot.serving.workload_scope import WorkloadScope
from lateen.pilot.xds.source import Delta, Resource
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, NDS, RDS, SDS

__all__ = ["CDS", "ECDS", "EDS", "LDS", "NDS", "RDS", "SDS", "Scope", "Scopes"]  # the types that scopes have

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
        self.notes: dict[View, tuple[Note, ...]] = {}  # of views in use, where there are any
        self._touched: dict[Scope, None] = {}  # with something staged
        self._fresh: dict[Scope, bool] = {}  # of them, those that nobody was served from yet
        self._following: Following[ViewScope] = Following(outbound, self._touch)
        self._wire()

    def view(self, view: View) -> ViewScope:
        """Return the scope of `view`, one user more."""
        scope = self.views.get(view)
        if scope is None:
            scope = self.views[view] = ViewScope(
                view,
                render=self.render,
                outbound=self.outbound,
                ledger=self.ledger,
                gate=self.gate,
                following=self._following,
                enter=self.enter,
                note=self.note,
            )
            self._opened(scope)
        scope.users += 1
        return scope

    def workload(self, name: str) -> WorkloadScope:
        """Return the scope of one workload, one user more."""
        scope = self.workloads.get(name)
        if scope is None:
            scope = self.workloads[name] = WorkloadScope(name, self.render, self.ledger, self.gate, self.enter)
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

    def enter(self, scope: Scope, type_url: str, name: str, wanted: Resource) -> Resource | None:
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

    def _wire(self) -> None:
        graph, render = self.mesh.graph, self.render
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
        graph.on_change(render.inbound_extensions, self._inbound_extensions)
        graph.on_change(render.inbound_listeners, self._inbound_teller("listeners"))
        graph.on_change(render.inbound_clusters, self._inbound_teller("clusters"))

    def _touch(self, scope: Scope) -> None:
        self._touched[scope] = None

    def _route(self, derived: Derived[Any, Any], apply: Callable[[ViewScope, Any, Any], None]) -> None:
        def tell(changes: list[tuple[Any, Any, Any]]) -> None:
            for (view, part), _, value in changes:
                scope = self.views.get(view)
                if scope is not None:
                    apply(scope, part, value)
                    self._touched[scope] = None

        self.mesh.graph.on_change(derived, tell)

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

    def _inbound_extensions(self, changes: list[tuple[Any, Any, Any]]) -> None:
        for (name, wanted), _, value in changes:
            scope = self.workloads.get(name)
            if scope is not None:
                scope.extensions.changed(wanted, value)
                self._touched[scope] = None


def _set_part(which: str, part: tuple[int, str], scope: ViewScope, value: Any) -> None:
    _union(getattr(scope, which)).set_part(part, value)


def _union(one: UnionSlice | NamedSlice) -> UnionSlice:
    assert isinstance(one, UnionSlice)
    return one


def _named(one: UnionSlice | NamedSlice) -> NamedSlice:
    assert isinstance(one, NamedSlice)
    return one
