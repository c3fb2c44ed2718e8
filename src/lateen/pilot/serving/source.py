"""Who may connect and what they are served: the xDS server's `ProxySource` over the graph.

A proxy's claims (its node's metadata) are held against what the transport proved: a certificate of one workload never
opens another's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from lateen.api.base import ResourceKey
from lateen.errors import Refused, Unavailable
from lateen.pilot.model.envoy_filters import Patch, PatchId
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.origins import culprits_of
from lateen.pilot.serving.scopes import Scopes
from lateen.pilot.serving.trust import TrustSlice
from lateen.pilot.serving.view_scope import ViewScope
from lateen.pilot.serving.workload_scope import WorkloadScope
from lateen.pilot.translate.patches.outcome import Mark
from lateen.pilot.xds.source import Delta, Identity, Listener, NodeInfo, Proxy, Slice
from lateen.pilot.xds.type_urls import CDS, ECDS, LDS, SDS, TRUST
from lateen.wire.spiffe import parse_spiffe_id

__all__ = ["MeshProxy", "MeshSource", "Rejection"]

log = structlog.get_logger(__name__)

PROXYLESS_GENERATOR = "grpc"  # node metadata GENERATOR of a gRPC client that is its own proxy


@dataclass(frozen=True, slots=True)
class Rejection:
    """A NACK that still stands: Envoy's words about one resource, and the resources of the API that shaped it."""

    proxy: str
    type_url: str
    name: str
    error: str
    culprits: tuple[ResourceKey, ...]


@dataclass(eq=False)
class MeshProxy:
    """One connected proxy and its scope."""

    name: str  # workload's name
    namespace: str
    view: View
    shared: ViewScope
    own: WorkloadScope | None
    follows: bool  # its view changes with its workload
    metadata: Mapping[str, object]
    account: str  # that it proved or, on the local socket, claims; "" where it claims none
    proven: bool  # its certificate says whose it is; only then it gets secrets
    _source: MeshSource = field(repr=False)

    @property
    def slices(self) -> Mapping[str, tuple[Slice, ...]]:
        slices = dict(self.shared.slices)
        if self.own is not None:
            slices[CDS] = (*slices[CDS], self.own.clusters)
            slices[LDS] = (*slices[LDS], self.own.listeners)
            slices[ECDS] = (*slices[ECDS], self.own.extensions)
        slices[TRUST] = (self._source.trust,)
        if self.proven and self.follows:
            slices[SDS] = (self.shared.secrets,)
        return slices

    def marks(self, type_url: str, name: str) -> list[Mark]:
        """Return what EnvoyFilters did to one resource that the proxy is served."""
        keepers = (self.shared.keeper, *((self.own.keeper,) if self.own is not None else ()))
        return [mark for keeper in keepers if (mark := keeper.mark(type_url, name)) is not None]

    def patch_counts(self) -> list[tuple[Patch, dict[str, int]]]:
        """Return each patch that is for the proxy, and how many resources of each type it acts on."""
        keepers = (self.shared.keeper, *((self.own.keeper,) if self.own is not None else ()))
        found: dict[PatchId, dict[str, int]] = {patch.id: {} for patch in self.shared.keeper.selected}
        for keeper in keepers:
            for (patch, word), count in keeper.counts.items():
                counts = found.setdefault(patch, {})
                counts[word] = counts.get(word, 0) + count
        return [(patch, found[patch.id]) for patch in self.shared.keeper.selected]

    def close(self) -> None:
        self._source.leave(self)


class MeshSource:
    """Accepts proxies and tells the hub what changed. Owned by the control plane's loop."""

    def __init__(self, mesh: Mesh, scopes: Scopes, *, trust_domain: str) -> None:
        self.mesh = mesh
        self.scopes = scopes
        self.trust = TrustSlice(lambda delta: self._tell([delta]))
        self.ready = False  # sources have been read once; before that nobody is told that nothing exists
        self.rejections: dict[tuple[str, str, str], Rejection] = {}
        self.on_rejections: Callable[[], None] | None = None
        self._trust_domain = trust_domain
        self._listeners: list[Listener] = []
        self._proxies: dict[str, set[MeshProxy]] = {}
        mesh.graph.on_change(mesh.view, self._views_changed)
        self._moved: dict[MeshProxy, None] = {}
        self._targets: dict[MeshProxy, ViewScope] = {}  # where moved proxies go once what is there is judged
        self._settled: Callable[[], Awaitable[None]] | None = None

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def connect(self, node: NodeInfo, identity: Identity) -> Proxy:
        if not self.ready:
            raise Unavailable("the control plane is still reading its sources")
        kind, name, namespace = _node_parts(node)
        claimed = node.metadata.get("NAMESPACE")
        if claimed is not None and claimed != namespace:
            raise Refused(f"node {node.id!r} is of namespace {namespace!r}, its metadata say {claimed!r}")
        account = node.metadata.get("SERVICE_ACCOUNT")
        workload: Workload | None = self.mesh.workloads.get(name)
        # A node that keeps silent about its account is held to that of the workload it names.
        wanted = account if isinstance(account, str) else workload.service_account if workload is not None else None
        wanted = self._check_identity(node, identity, namespace, wanted) or wanted
        if workload is not None and (
            workload.namespace != namespace or (account and workload.service_account != account)
        ):
            raise Refused(
                f"node {node.id!r} claims workload {name!r}, which is {workload.namespace}/{workload.service_account}"
            )
        self.mesh.proxies.set(name, node.metadata)
        follows = workload is not None and node.metadata.get("GENERATOR") != PROXYLESS_GENERATOR
        if node.metadata.get("GENERATOR") == PROXYLESS_GENERATOR:
            view, own = View(kind="proxyless", namespace=namespace), None
        elif workload is not None:
            found = self.mesh.view.live(name, None)
            view = found or _view_of_node(kind, namespace, node)
            own = self.scopes.workload(name) if workload.kind == "sidecar" else None
        else:
            view, own = _view_of_node(kind, namespace, node), None
        proven = identity.spiffe_id is not None
        proxy = MeshProxy(
            name, namespace, view, self.scopes.view(view), own, follows, node.metadata, wanted or "", proven, self
        )
        self._proxies.setdefault(name, set()).add(proxy)
        return proxy

    def check(self, proxy: Proxy) -> None:
        if proxy not in self._proxies.get(proxy.name, ()):
            raise Refused(_another(proxy.name))

    def recheck(self, name: str, workload: Workload) -> None:
        """Refuse the proxies that a workload of their name, which is another's, would open to them from now on.

        A name is free once its workload has ended. Who held it, and goes on with its old certificate, must not be taken
        for whoever has it next. Call it before `flush`.
        """
        for proxy in list(self._proxies.get(name, ())):
            if workload.namespace != proxy.namespace or (proxy.account and workload.service_account != proxy.account):
                for listener in self._listeners:
                    listener.on_refused(proxy, _another(name))
                self.leave(proxy)

    def patch_counts(self, name: str) -> list[tuple[Patch, dict[str, int]]]:
        """Return each patch that is for a connected proxy, and how many resources of each type it acts on."""
        for proxy in self._proxies.get(name, ()):
            if proxy.view.kind != "proxyless":
                return proxy.patch_counts()
        return []

    def leave(self, proxy: MeshProxy) -> None:
        """Forget a proxy whose stream ended."""
        peers = self._proxies.get(proxy.name)
        if peers is None or proxy not in peers:
            return
        peers.discard(proxy)
        if not peers:
            del self._proxies[proxy.name]
            self.mesh.proxies.delete(proxy.name)
        self._moved.pop(proxy, None)
        target = self._targets.pop(proxy, None)
        if target is not None:
            self.scopes.leave(target)
        for key in [key for key in self.rejections if key[0] == proxy.name and not peers]:
            del self.rejections[key]
        if proxy.follows:
            self.mesh.view.release(proxy.name)
        self.scopes.leave(proxy.shared)
        if proxy.own is not None:
            self.scopes.leave(proxy.own)

    def _check_identity(self, node: NodeInfo, identity: Identity, namespace: str, account: str | None) -> str:
        """Return the account that the identity proves, "" for none."""
        if identity.spiffe_id is None:
            return ""  # local trust: reaching the socket is the proof
        spiffe = parse_spiffe_id(identity.spiffe_id)
        if spiffe.trust_domain != self._trust_domain:
            raise Refused(f"{identity.spiffe_id} is not of trust domain {self._trust_domain!r}")
        if spiffe.namespace != namespace or (account is not None and spiffe.service_account != account):
            raise Refused(
                f"{identity.spiffe_id} may not speak for node {node.id!r}, which claims {namespace}/{account or '?'}"
            )
        return spiffe.service_account

    # ---- changes

    def flush(self) -> None:
        """Serve what the last batch did and tell the listeners; call it after every batch.

        What an Envoy has to judge first waits, and all of the batch with it, but for endpoints: `on_staged` of the
        scopes is called, and `release` is for whoever has it judged.
        """
        moved, self._moved = self._moved, {}
        for proxy in moved:
            self._aim(proxy)
        self.scopes.settle()
        if self.scopes.open_questions():
            self._tell(self.scopes.take_endpoints())
            if self.scopes.on_staged is not None:
                self.scopes.on_staged()
        else:
            self.release()

    def release(self) -> None:
        """Serve all that is staged, now that it is judged."""
        targets, self._targets = self._targets, {}
        deltas = self.scopes.take_deltas()
        for proxy, target in targets.items():
            self._move(proxy, target)
        self._tell(deltas)

    async def settled(self) -> None:
        """Return once nothing that is staged waits to be judged."""
        if self._settled is not None and self.scopes.open_questions():
            await self._settled()

    def judged_by(self, settled: Callable[[], Awaitable[None]]) -> None:
        """Have `settled` waited for where somebody is to be served what is not judged yet."""
        self._settled = settled

    def _tell(self, deltas: list[Delta]) -> None:
        if deltas:
            for listener in self._listeners:
                listener.on_batch(deltas)

    def _views_changed(self, changes: list[tuple[Any, Any, Any]]) -> None:
        for name, _, view in changes:
            for proxy in self._proxies.get(name, ()):
                if view is not None and proxy.view != view and proxy.view.kind != "proxyless":
                    self._moved[proxy] = None

    def _aim(self, proxy: MeshProxy) -> None:
        """Open the scope that a proxy is to move to."""
        view = self.mesh.view.peek(proxy.name)
        if view is None or view == proxy.view:
            return
        before = self._targets.pop(proxy, None)
        self._targets[proxy] = self.scopes.view(view)
        if before is not None:
            self.scopes.leave(before)

    def _move(self, proxy: MeshProxy, target: ViewScope) -> None:
        before, proxy.view, proxy.shared = proxy.shared, target.view, target
        for listener in self._listeners:
            listener.on_scope(proxy)
        self.scopes.leave(before)

    # ---- verdicts

    def rejected(self, proxy: Proxy, type_url: str, names: tuple[str, ...], error: str) -> None:
        assert isinstance(proxy, MeshProxy)
        for name in names:
            culprits = self.culprits(proxy, type_url, name)
            self.rejections[proxy.name, type_url, name] = Rejection(proxy.name, type_url, name, error, culprits)
            log.warning(
                "proxy rejected a resource",
                proxy=proxy.name,
                type_url=type_url,
                resource=name,
                error=error,
                shaped_by=[str(key) for key in culprits],
            )
        if self.on_rejections is not None:
            self.on_rejections()

    def accepted(self, proxy: Proxy, type_url: str, names: tuple[str, ...]) -> None:
        for name in names:
            self.rejections.pop((proxy.name, type_url, name), None)
        if self.on_rejections is not None:
            self.on_rejections()

    def culprits(self, proxy: MeshProxy, type_url: str, name: str) -> tuple[ResourceKey, ...]:
        """Return the resources of the API that shaped one Envoy resource: rules first, then what they refer to."""
        own = proxy.own
        if own is not None and any(part.type_url == type_url and name in part.all() for part in own.parts()):
            return culprits_of(self.mesh, own, type_url, name)
        return culprits_of(self.mesh, proxy.shared, type_url, name)

    def users_of(self, scope: str) -> list[str]:
        """Return the names of the connected proxies that a scope is for."""
        return sorted(
            name
            for name, proxies in self._proxies.items()
            if any(  # one workload may have several streams: its Envoy's, and its agent's for names
                scope == proxy.shared.name or (proxy.own is not None and scope == proxy.own.name) for proxy in proxies
            )
        )


def _another(name: str) -> str:
    return f"workload {name!r} is of another namespace or service account now"


def _node_parts(node: NodeInfo) -> tuple[str, str, str]:
    """Return (kind, workload's name, namespace) of a node id `<type>~<ip>~<name>.<namespace>~<domain>`."""
    parts = node.id.split("~")
    if len(parts) != 4 or parts[0] not in ("sidecar", "router"):
        raise Refused(f"node id {node.id!r} is not '<sidecar|router>~<ip>~<name>.<namespace>~<dns domain>'")
    name, _, namespace = parts[2].rpartition(".")
    if not name or not namespace:
        raise Refused(f"node id {node.id!r} names no workload and namespace: '<name>.<namespace>' wanted third")
    return ("gateway" if parts[0] == "router" else "sidecar"), name, namespace


def _view_of_node(kind: str, namespace: str, node: NodeInfo) -> View:
    """The view of a proxy that no registration describes: an Envoy or a client that somebody started by hand."""
    labels = node.metadata.get("LABELS")
    pairs = tuple(sorted((str(k), str(v)) for k, v in labels.items())) if isinstance(labels, Mapping) else ()
    view = View(kind=kind, namespace=namespace, capture=node.metadata.get("INTERCEPTION_MODE") != "NONE")
    return dataclasses.replace(view, labels=pairs) if kind == "gateway" else view
