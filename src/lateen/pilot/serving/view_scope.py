"""One view's slices, and the live outputs that feed them: what all proxies of a view share.

Its membership (which hosts, which ports) follows live index lookups, so that a service that comes or goes costs that
service, not the list it is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from lateen.flow import Derived
from lateen.pilot.model.cluster_names import parse_cluster_name
from lateen.pilot.model.gateway_servers import Note
from lateen.pilot.model.mesh import View
from lateen.pilot.model.names import NameEntry
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.virtual_services import HTTP_PORT
from lateen.pilot.model.visibility import Membership
from lateen.pilot.serving.following import Following
from lateen.pilot.serving.gate import Gate
from lateen.pilot.serving.held import Held, discovered
from lateen.pilot.serving.marks import Keeper, Ledger
from lateen.pilot.serving.render import Render
from lateen.pilot.serving.slices import NamedSlice, UnionSlice
from lateen.pilot.translate.name_table import name_table
from lateen.pilot.xds.references import references
from lateen.pilot.xds.source import Resource, Slice
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, NDS, RDS, SDS

__all__ = ["ViewScope"]


class ViewScope:
    """The slices of one view, and the live outputs that feed them."""

    def __init__(
        self,
        view: View,
        *,
        render: Render,
        outbound: Outbound,
        ledger: Ledger,
        gate: Gate,
        following: Following[ViewScope],
        enter: Callable[[ViewScope, str, str, Resource], Resource | None],
        note: Callable[[View, tuple[Note, ...]], None],
    ) -> None:
        """`enter` says what is served at once under a name asked for first, `note` takes what people are to be told."""
        self.view = view
        self.name = str(view)
        self.users = 0
        self.render = render
        self._sight = outbound.mesh.sight
        self._gate = gate
        self._following = following
        self._enter = enter
        self._note = note
        proxyless = view.kind == "proxyless"
        self.keeper = Keeper(ledger)
        self.judged = not proxyless  # by an Envoy, which has no word in what gRPC clients are served
        self._held = Held()
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
        self._memberships = outbound.memberships(view) if not proxyless else []
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
        render = self.render
        self.keeper.select(render.filters.selected.live(self.view, ()))
        self.clusters.set_part((0, ""), render.base_clusters.live(self.view, ()))
        self.clusters.set_part((3, ""), render.added_clusters.live(self.view, ()))
        self.listeners.set_part((0, ""), render.base_listeners.live(self.view, ()))
        self.listeners.set_part((3, ""), render.added_listeners.live(self.view, ()))
        for host in self._sight.named_hosts(self.view):
            self._count_host(host, 1)
        for member in self._memberships:
            self._following.subscribe(member, self)
        self._note(self.view, render.notes.live(self.view, ()))

    def close(self) -> None:
        """Let everything go; nothing holds the slices any more."""
        if self.view.kind != "proxyless":
            for member in self._memberships:
                self._following.unsubscribe(member, self)
            for virtual in list(self._virtuals):
                self._drop_virtual(virtual)
            for host in list(self._hosts):
                self._drop_host(host)
            for port in list(self._ports):
                self._drop_port(port)
            render = self.render
            for derived in (
                render.filters.selected,
                render.base_clusters,
                render.added_clusters,
                render.base_listeners,
                render.added_listeners,
                render.notes,
            ):
                derived.release(self.view)
            self._note(self.view, ())
        for named in (self.endpoints, self.secrets, self.routes, self.extensions, self.clusters, self.listeners):
            if isinstance(named, NamedSlice):
                named.drain()
        self.keeper.close()
        self._gate.leave(self.name)

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
        self._virtuals[virtual] = self._following.follow_destinations(virtual, self)
        for host in self._virtuals[virtual]:
            self._count_host(host, 1)

    def _drop_virtual(self, virtual: Any) -> None:
        self._following.forget_destinations(virtual, self)
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
        render, key = self.render, (self.view, host)
        assert isinstance(self.clusters, UnionSlice)
        assert isinstance(self.listeners, UnionSlice)
        self.clusters.set_part((1, host), render.clusters.live(key, ()))
        if self.view.kind == "sidecar":
            self.listeners.set_part((1, host), render.service_listeners.live(key, ()))
            entry: NameEntry | None = render.names.live(key, None)
            self.set_name(host, entry)

    def _drop_host(self, host: Any) -> None:
        render, key = self.render, (self.view, host)
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
            self.listeners.set_part((2, str(port)), self.render.port_listeners.live((self.view, port), ()))

    def _drop_port(self, port: int) -> None:
        if self.view.kind == "sidecar":
            assert isinstance(self.listeners, UnionSlice)
            self.listeners.set_part((2, str(port)), ())
            self.render.port_listeners.release((self.view, port))

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
            self._held.hold(self.routes, name, references(LDS, listener.body) if listener is not None else ())
            if self.view.kind == "gateway":
                self._held.hold(self.extensions, name, discovered(listener))
        if self._gate.active:
            # A proxy may ask for the endpoints of a cluster that it was just told of when a later change, which is
            # being judged, has taken them away: what is served is a state of its own, endpoints included.
            for name, cluster in list(self.clusters.staged()):
                held = cluster is not None and parse_cluster_name(name) is not None
                self._held.hold(self.endpoints, name, (name,) if held else ())
        # Whoever names them, patches bring them: one parent for all.
        extensions = tuple(sorted({name for patch in self.keeper.selected if (name := patch.extension)}))
        self._held.hold(self.extensions, "", extensions)

    def served(self) -> None:
        """Let go of what only the state before the last one needed."""
        self._held.let_go()

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
            lambda name, wanted: self._enter(self, type_url, name, wanted),
        )
