"""EnvoyFilters resolved: which patches act on what a proxy is served, in their order.

Patches come in groups by what they may touch, so that a change of one reaches only what reads its group. Patches that
name one host are filed under it: a view's other hosts never look at them. Rules: docs/api/EnvoyFilter.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import msgspec

from lateen import __version__
from lateen.api.base import Object, ResourceKey
from lateen.api.envoy_filter import EnvoyConfigObjectPatch, ObjectMatch
from lateen.flow import Read
from lateen.pilot.model.filter_selection import VERSION_KEY, is_choosy
from lateen.pilot.model.mesh import Mesh, View

__all__ = [
    "ADDITIONS",
    "BOOTSTRAP",
    "CLUSTERS",
    "EXTENSIONS",
    "INBOUND",
    "LISTENERS",
    "ROUTES",
    "ROUTE_PARTS",
    "EnvoyFilters",
    "Patch",
    "PatchGroup",
    "PatchId",
    "parse_patch_id",
]

# Groups: of a view's clusters, listeners and routes; of all that arrives at a workload.
CLUSTERS: Final = "clusters"
LISTENERS: Final = "listeners"
ROUTES: Final = "routes"
INBOUND: Final = "inbound"
EXTENSIONS: Final = "extensions"
BOOTSTRAP: Final = "bootstrap"

_GROUP_OF: Final = {
    "CLUSTER": CLUSTERS,
    "LISTENER": LISTENERS,
    "LISTENER_FILTER": LISTENERS,
    "FILTER_CHAIN": LISTENERS,
    "NETWORK_FILTER": LISTENERS,
    "HTTP_FILTER": LISTENERS,
    "ROUTE_CONFIGURATION": ROUTES,
    "VIRTUAL_HOST": ROUTES,
    "HTTP_ROUTE": ROUTES,
    "EXTENSION_CONFIG": EXTENSIONS,
    "BOOTSTRAP": BOOTSTRAP,
}
ROUTE_PARTS: Final = frozenset(part for part, group in _GROUP_OF.items() if group == ROUTES)
# What only an ordered list can tell apart is an addition elsewhere.
ADDITIONS: Final = frozenset({"ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER"})
_WHOLE: Final = frozenset({"LISTENER", "CLUSTER"})  # additions to these stand for themselves
_SIDECAR_CONTEXTS: Final = frozenset({"ANY", "SIDECAR_OUTBOUND", "SIDECAR_INBOUND"})
_GATEWAY_CONTEXTS: Final = frozenset({"ANY", "GATEWAY"})


@dataclass(frozen=True, slots=True, order=True)
class PatchId:
    """One entry of `configPatches`."""

    namespace: str
    name: str
    index: int

    @property
    def key(self) -> ResourceKey:
        return ResourceKey("EnvoyFilter", self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}#{self.index}"

    @property
    def path(self) -> str:
        return f"spec.configPatches[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One patch, ready to be applied. Equal digests do the same: the content is not compared again."""

    id: PatchId
    priority: int
    created: str
    choosy: bool  # not for every proxy of its namespace
    apply_to: str
    operation: str
    context: str
    filter_class: str
    digest: str  # of everything that decides what it does
    match: ObjectMatch = field(compare=False)
    value: Any = field(compare=False, repr=False)  # FrozenMap | None

    @property
    def adds(self) -> bool:
        return self.operation in ADDITIONS

    @property
    def extension(self) -> str:
        """Return the name of the extension that a proxy can ask for because of this patch, "" where it brings none."""
        if _GROUP_OF.get(self.apply_to) != EXTENSIONS or not isinstance(self.value, Mapping):
            return ""
        return str(self.value.get("name") or "")

    def order(self, root: str) -> tuple[int, bool, str, str, str, int]:
        """Return the place among all patches of a proxy: priority, root namespace first, age, name, as listed."""
        own = self.id.namespace != root
        return (self.priority, own, self.created, self.id.name, self.id.namespace, self.id.index)


@dataclass(frozen=True, slots=True)
class PatchGroup:
    """The patches of one group that act on any host, in order, and whether others are filed under hosts."""

    wide: tuple[Patch, ...] = ()
    by_host: bool = False


_NOTHING: Final = PatchGroup()


class EnvoyFilters:
    """The derived collections of patches."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        graph = mesh.graph
        # filter -> its patches, as listed
        self.patches = graph.derive("patches", self._patches)
        # (namespace, group) -> filters with patches of it that act on any host
        self.wide = graph.index("envoy filters by group", mesh.objects, _wide_groups)
        # (namespace, group, host), and (namespace, group, "") for any of them
        self.narrow = graph.index("envoy filters by host", mesh.objects, _narrow_groups)
        # (view, group) -> PatchGroup
        self.group = graph.derive("patch groups", self._group)
        # (kind, namespace, labels) of a proxy that starts -> tuple[Patch, ...]
        self.bootstrap = graph.derive("bootstrap patches", self._bootstrap)
        # view -> tuple[Patch, ...]: all that are for its proxies
        self.selected = graph.derive("selected patches", self._selected)

    def for_host(self, read: Read, view: View, group: str, host: str) -> tuple[Patch, ...]:
        """Return the patches of `group` that may act on what is made for `host`, in order."""
        found: PatchGroup = read.get(self.group, (view, group))
        if not found.by_host:
            return found.wide
        root = read.get(self.mesh.settings, "mesh").root_namespace
        named = [
            patch
            for namespace in dict.fromkeys((root, view.namespace))
            for patch in self._acting(read, view, read.lookup(self.narrow, (namespace, group, host)), group)
            if _host_of(patch.match, patch.apply_to, patch.operation) == host
        ]
        return tuple(sorted((*found.wide, *named), key=lambda patch: patch.order(root)))

    def _patches(self, read: Read, key: ResourceKey) -> tuple[Patch, ...]:
        obj: Object | None = read.get(self.mesh.objects, key)
        if obj is None:
            return ()
        choosy = is_choosy(obj.spec)
        return tuple(
            _patch(obj, position, patch, choosy)
            for position, patch in enumerate(obj.spec.config_patches)
            if patch.patch is not None
        )

    def _group(self, read: Read, key: tuple[View, str]) -> PatchGroup:
        view, group = key
        root = read.get(self.mesh.settings, "mesh").root_namespace
        namespaces = tuple(dict.fromkeys((root, view.namespace)))
        wide = [
            patch
            for namespace in namespaces
            for patch in self._acting(read, view, read.lookup(self.wide, (namespace, group)), group)
            if group == INBOUND or not _host_of(patch.match, patch.apply_to, patch.operation)
        ]
        by_host = any(bool(read.lookup(self.narrow, (namespace, group, ""))) for namespace in namespaces)
        if not wide and not by_host:
            return _NOTHING
        return PatchGroup(tuple(sorted(wide, key=lambda patch: patch.order(root))), by_host)

    def _bootstrap(self, read: Read, key: tuple[str, str, tuple[tuple[str, str], ...]]) -> tuple[Patch, ...]:
        kind, namespace, labels = key
        # Nothing is known of what the proxy will say of itself, but that it is of this version.
        known = {VERSION_KEY: __version__}
        filters = self.mesh.chosen_filters(read, namespace, dict(labels), lambda: known)
        view = View(kind=kind, namespace=namespace, filters=filters)
        return read.get(self.group, (view, BOOTSTRAP)).wide

    def _selected(self, read: Read, view: View) -> tuple[Patch, ...]:
        root = read.get(self.mesh.settings, "mesh").root_namespace
        keys: set[ResourceKey] = set()
        for namespace in dict.fromkeys((root, view.namespace)):
            for group in (CLUSTERS, LISTENERS, ROUTES, INBOUND, EXTENSIONS, BOOTSTRAP):
                keys.update(read.lookup(self.wide, (namespace, group)))
                keys.update(read.lookup(self.narrow, (namespace, group, "")))
        return tuple(sorted(self._acting(read, view, tuple(keys), ""), key=lambda patch: patch.order(root)))

    def _acting(self, read: Read, view: View, keys: tuple[ResourceKey, ...], group: str) -> Iterator[Patch]:
        """Yield the patches of these filters that are for the view's proxies and of a group ("": of any)."""
        chosen = dict(entry.split("#") for entry in view.filters)
        contexts = _GATEWAY_CONTEXTS if view.kind == "gateway" else _SIDECAR_CONTEXTS
        for key in keys:
            for patch in read.get(self.patches, key):
                if group and group not in _groups(patch.apply_to, patch.operation, patch.context):
                    continue
                if patch.context not in contexts or (group == INBOUND and view.kind == "gateway"):
                    continue
                if patch.choosy:
                    positions = chosen.get(f"{key.namespace}/{key.name}")
                    if positions is None or str(patch.id.index) not in positions.split(","):
                        continue
                yield patch


def parse_patch_id(text: str) -> PatchId | None:
    """Return what `str(PatchId)` gave; None for any other text."""
    rest, _, index = text.rpartition("#")
    namespace, _, name = rest.partition("/")
    return PatchId(namespace, name, int(index)) if name and index.isdecimal() and len(index) < 6 else None


def _patch(obj: Object, position: int, written: EnvoyConfigObjectPatch, choosy: bool) -> Patch:
    patch = written.patch
    assert patch is not None
    match = written.match or ObjectMatch()
    what = (written.apply_to, patch.operation, match, patch.value, patch.filter_class)
    return Patch(
        id=PatchId(obj.key.namespace, obj.key.name, position),
        priority=obj.spec.priority,
        created=obj.created,
        choosy=choosy,
        apply_to=written.apply_to,
        operation=patch.operation,
        context=match.context,
        filter_class=patch.filter_class,
        digest=blake2b(msgspec.msgpack.encode(what), digest_size=16).hexdigest(),
        match=match,
        value=patch.value,
    )


def _groups(apply_to: str, operation: str, context: str) -> Iterator[str]:
    """Yield the groups that a patch is in."""
    group = _GROUP_OF.get(apply_to)
    if group is None or context == "WAYPOINT":
        return
    if context != "SIDECAR_INBOUND" or group in (EXTENSIONS, BOOTSTRAP):
        yield group
    if group in (CLUSTERS, LISTENERS, ROUTES) and (
        context == "SIDECAR_INBOUND" or (context == "ANY" and not (apply_to in _WHOLE and operation in ADDITIONS))
    ):
        yield INBOUND


def _host_of(match: ObjectMatch, apply_to: str, operation: str) -> str:
    """Return the one host that a patch of a view's clusters or routes can be about, "" for any.

    Additions to a view name what they add, not what is there.
    """
    if apply_to == "CLUSTER" and match.cluster is not None and operation not in ADDITIONS:
        if not match.cluster.name:
            return match.cluster.service.lower()
        parts = match.cluster.name.split("|", 3)
        return parts[3] if len(parts) == 4 and parts[0] == "outbound" else ""
    if apply_to in ("VIRTUAL_HOST", "HTTP_ROUTE") and match.route_configuration is not None:
        host = match.route_configuration.vhost
        if host is not None and not (apply_to == "VIRTUAL_HOST" and operation in ADDITIONS):
            return host.name.rpartition(":")[0]
    return ""


def _filed(key: ResourceKey, obj: Object) -> Iterator[tuple[str, str]]:
    """Yield (group, host) of each patch of an EnvoyFilter."""
    if key.kind != "EnvoyFilter":
        return
    for written in obj.spec.config_patches:
        if written.patch is None:
            continue
        match = written.match or ObjectMatch()
        for group in _groups(written.apply_to, written.patch.operation, match.context):
            host = "" if group == INBOUND else _host_of(match, written.apply_to, written.patch.operation)
            yield group, host


def _wide_groups(key: ResourceKey, obj: Object) -> list[tuple[str, str]]:
    return sorted({(key.namespace, group) for group, host in _filed(key, obj) if not host})


def _narrow_groups(key: ResourceKey, obj: Object) -> list[tuple[str, str, str]]:
    named = {(group, host) for group, host in _filed(key, obj) if host}
    return sorted({(key.namespace, group, entry) for group, host in named for entry in (host, "")})
