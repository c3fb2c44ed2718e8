"""Which VirtualServices speak for a host or at a gateway, in which order, with their delegates' rules in place.

Rules: docs/api/VirtualService.md "Precedence", "Ownership" and "Delegates".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from lateen.api.base import Object, ResourceKey
from lateen.api.hosts import host_covers, specificity_key
from lateen.api.names import is_partial_wildcard
from lateen.api.virtual_service import HTTPRoute
from lateen.flow import Read
from lateen.pilot.model.delegates import delegate_key, merge_delegate
from lateen.pilot.model.hosts import full_name, host_patterns
from lateen.pilot.model.mesh import PARTIAL, Mesh, MeshSettings, View
from lateen.pilot.model.ownership import precedence, reaches
from lateen.pilot.model.policy import exported_to
from lateen.pilot.model.routes import MESH_GATEWAY, bound_gateways
from lateen.pilot.model.scope import EVERYTHING, Egress, Scope
from lateen.pilot.model.values import Hostname
from lateen.pilot.model.visibility import Membership, imports
from lateen.pilot.registry.values import EVERYWHERE

__all__ = ["HTTP_PORT", "Expanded", "VirtualServices"]

HTTP_PORT: Final = 80  # where a host that no service has is reached

NameKey = tuple[str, Hostname, ResourceKey]


@dataclass(frozen=True, slots=True)
class Expanded:
    """A VirtualService without delegates, and what of its delegation did not work: (field, message)."""

    obj: Object
    faults: tuple[tuple[str, str], ...] = ()


class VirtualServices:
    """The derived collections of VirtualServices in force."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        # key of one that delegates -> Expanded | None
        self.expanded = mesh.graph.derive("expanded virtual services", self._expanded)
        # (scope, host that no service of everybody's has, key) -> the other hosts of that VirtualService
        self.names = mesh.graph.table("hosts of virtual services", mesh.objects, self._names)
        # (scope, whether there are other hosts) -> keys of `names`
        self.names_by_scope = mesh.graph.index(
            "hosts of virtual services by scope", self.names, lambda key, others: [(key[0], bool(others))]
        )
        # (namespace of the client, hostname) -> keys, the one that goes first at the front
        self.speakers = mesh.graph.derive("virtual services of a host", self._speakers)

    def get(self, read: Read, key: ResourceKey) -> Object | None:
        """Return one VirtualService with its delegates' rules in place; None when there is none."""
        obj = read.get(self.mesh.objects, key)
        if obj is None or not any(rule.delegate is not None for rule in obj.spec.http):
            return obj
        expanded: Expanded | None = read.get(self.expanded, key)
        return expanded.obj if expanded is not None else None

    def speaking(
        self,
        read: Read,
        *,
        namespace: str,
        host: Hostname,
        acts: Callable[[Object], Any],
        importer: Scope | Egress = EVERYTHING,
    ) -> Iterator[tuple[Object, Any]]:
        """Yield the VirtualServices that speak for `host` to sidecars of `namespace`, and what `acts` made of each.

        The first one goes first. One of which `acts` makes nothing does not claim the host, nor does one that is not
        imported by `importer`: the proxy's scope, or the one listener of it by which the host is reached.
        """
        for key in read.get(self.speakers, (namespace, host)):
            obj = self.get(read, key)
            if obj is None or not imports(importer, obj):
                continue
            if result := acts(obj):
                yield obj, result

    def unregistered(
        self, read: Read, view: View, *, port: int, served: Collection[Hostname], importer: Egress | None
    ) -> list[Hostname]:
        """Return the hosts that only VirtualServices name and that proxies of `view` reach on `port`, sorted.

        `served` are the hosts that services have on that port. Others are reached on port 80, and on the ports of the
        services that the same VirtualService names. A wildcard that covers one of `served` speaks for that, and is no
        host of its own. `importer` is the listener of a Sidecar by which they are reached, if there is one.
        """
        found: dict[Hostname, None] = {}
        by = importer or view.scope
        for index_key in self._name_keys(view.namespace, port):
            for row in read.lookup(self.names_by_scope, index_key):
                _, host, key = row
                others: tuple[Hostname, ...] = read.get(self.names, row, ())
                if host in found or (port != HTTP_PORT and not set(others) & set(served)):
                    continue
                if by is not EVERYTHING and not by.imports_virtual(key.namespace, (host, *others)):
                    continue
                if self.mesh.sight.imported(read, view, host) is not None:
                    continue
                if host.startswith("*") and any(host_covers(host, other) for other in served):
                    continue
                if read.get(self.speakers, (view.namespace, host)):
                    found[host] = None
        return sorted(found)

    def memberships(self, view: View) -> list[Membership]:
        """Return the index keys to follow for a view because of hosts that only VirtualServices name."""
        return [
            Membership("name", self.names_by_scope, key, frozenset())
            for key in self._name_keys(view.namespace, HTTP_PORT)
        ]

    @staticmethod
    def _name_keys(namespace: str, port: int) -> list[tuple[str, bool]]:
        lists = (True, False) if port == HTTP_PORT else (True,)
        return [(scope, beside) for scope in dict.fromkeys((EVERYWHERE, namespace)) for beside in lists]

    def _names(self, read: Read, key: ResourceKey, obj: Object) -> Iterator[tuple[NameKey, tuple[Hostname, ...]]]:
        if key.kind != "VirtualService" or MESH_GATEWAY not in bound_gateways(obj):
            return
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        entries = obj.spec.export_to or settings.virtual_export_to or (EVERYWHERE,)
        hosts = tuple(full_name(host, key.namespace) for host in obj.spec.hosts)
        for host in hosts:
            if not self._is_everybodys(read, host):
                others = tuple(other for other in hosts if other != host)
                for scope in sorted({key.namespace if entry == "." else entry for entry in entries}):
                    yield (scope, host, key), others

    def _is_everybodys(self, read: Read, host: Hostname) -> bool:
        """Tell whether a service that every namespace sees has `host`."""
        if read.lookup(self.mesh.implied_by_host, host):
            return True
        rows = (read.get(self.mesh.services, row) for row in read.lookup(self.mesh.rows_by_host, host))
        return any(row is not None and EVERYWHERE in row.export_to for row in rows)

    def _speakers(self, read: Read, key: tuple[str, Hostname]) -> tuple[ResourceKey, ...]:
        client, host = key
        by_pattern: list[tuple[str, tuple[ResourceKey, ...]]] = [
            (pattern, found)
            for pattern in host_patterns(host)
            if (found := tuple(read.lookup(self.mesh.virtual_by_host, pattern)))
        ]
        if partial := read.lookup(self.mesh.virtual_by_host, PARTIAL):
            by_pattern.extend(self._partial(read, host, partial))
            by_pattern.sort(key=lambda pair: specificity_key(pair[0]))
        if not by_pattern:
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        service = read.get(self.mesh.service, (client, host))
        owner = service.namespace if service is not None else None
        order: dict[ResourceKey, None] = {}
        for _, keys in by_pattern:
            rivals = [
                obj
                for obj in self.mesh.objects_of(read, keys)
                if reaches(
                    obj,
                    client,
                    owner=owner,
                    root=settings.root_namespace,
                    ownership=settings.host_ownership,
                    default=settings.virtual_export_to,
                )
            ]
            rivals.sort(key=lambda obj: precedence(obj, client, ownership=settings.host_ownership))
            order.update(dict.fromkeys(obj.key for obj in rivals))
        return tuple(order)

    def _partial(
        self, read: Read, host: str, keys: tuple[ResourceKey, ...]
    ) -> Iterator[tuple[str, tuple[ResourceKey, ...]]]:
        """Yield the wildcards that end within a label and cover `host`, and whose they are."""
        found: dict[str, list[ResourceKey]] = {}
        for obj in self.mesh.objects_of(read, keys):
            for written in obj.spec.hosts:
                pattern = full_name(written, obj.key.namespace)
                if pattern != host and is_partial_wildcard(pattern) and host_covers(pattern, host):
                    found.setdefault(pattern, []).append(obj.key)
        yield from ((pattern, tuple(owners)) for pattern, owners in found.items())

    # ---- delegates

    def _expanded(self, read: Read, key: ResourceKey) -> Expanded | None:
        root = read.get(self.mesh.objects, key)
        if root is None:
            return None
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        rules: list[HTTPRoute] = []
        faults: list[tuple[str, str]] = []
        for position, rule in enumerate(root.spec.http):
            if rule.delegate is None:
                rules.append(rule)
                continue
            place = f"spec.http[{position}].delegate"
            delegate = read.get(self.mesh.objects, delegate_key(rule.delegate, key.namespace))
            fault = _delegate_fault(delegate, delegate_key(rule.delegate, key.namespace), key.namespace, settings)
            if fault or delegate is None:
                faults.append((place, f"{fault}; this rule is left out"))
                continue
            merged, left_out = merge_delegate(rule, key.namespace, delegate)
            rules.extend(merged)
            faults.extend(
                (place, f"{delegate.key} has a match at spec.http[{number}] that agrees with none here; it is left out")
                for number in left_out
            )
        spec = msgspec.structs.replace(root.spec, http=tuple(rules))
        return Expanded(dataclasses.replace(root, spec=spec), tuple(faults))


def _delegate_fault(delegate: Object | None, key: ResourceKey, namespace: str, settings: MeshSettings) -> str:
    if delegate is None:
        return f"there is no {key}"
    if delegate.spec.hosts:
        return f"{key} has hosts, so it is no delegate"
    if not exported_to(delegate.spec.export_to or settings.virtual_export_to, delegate.key.namespace, namespace):
        return f"{key} is not exported to namespace {namespace}"
    return ""
