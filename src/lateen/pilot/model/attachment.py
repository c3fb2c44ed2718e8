"""Which policies of a kind are for a proxy: by selector, by target, of the root namespace and of its own.

For AuthorizationPolicy, RequestAuthentication, Telemetry, Rule. Rules: docs/api/README.md "Selectors", "targetRefs".
Policies are filed under a label that they ask for, and what they say is not read here: a policy that changes is looked
at by the workloads that it was or is for, and by no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lateen.api.base import Object, ResourceKey
from lateen.flow import Read
from lateen.pilot.model.policy import age_key

if TYPE_CHECKING:
    from lateen.pilot.model.mesh import Mesh

__all__ = ["GATEWAY_NAME_LABEL", "GATEWAY_TARGET", "Attachment", "targets_of"]

GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"  # on proxies that were made for a Kubernetes Gateway
GATEWAY_TARGET = ("gateway.networking.k8s.io", "Gateway")  # group and kind that a target is given as
_EVERY = ("", "")  # no label has such a name


@dataclass(frozen=True, slots=True)
class _Head:
    """What decides for whom a policy is, and its place among others: all but what it says."""

    age: tuple[str, str, str]
    labels: tuple[tuple[str, str], ...]
    gateways: tuple[str, ...] | None  # names of Kubernetes Gateways; None: it is not for targets


class Attachment:
    """The derived collections that find policies of one kind."""

    def __init__(self, mesh: Mesh, kind: str) -> None:
        self._mesh = mesh
        self._kind = kind
        graph = mesh.graph
        # (namespace, label, value) -> policies that ask for it; label and value "" for those that ask for none
        self._filed = graph.index(f"{kind} by label", mesh.objects, self._file)
        # policy -> _Head | None
        self._head = graph.derive(f"{kind} heads", self._head_of)
        # (kind of the proxy, namespace, labels) -> tuple[ResourceKey, ...]: root namespace first, then by age
        self.attached = graph.derive(f"{kind} attached", self._attached)

    def keys(
        self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> tuple[ResourceKey, ...]:
        """Return the policies for a proxy: those of the root namespace first, then those of its own, by age.

        `kind` is "sidecar" or "gateway"; `labels` are the workload's, sorted.
        """
        found: tuple[ResourceKey, ...] = read.get(self.attached, (kind, namespace, labels))
        return found

    def policies(
        self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> tuple[Object, ...]:
        """Return what `keys` names, as it is written."""
        return tuple(self._mesh.objects_of(read, self.keys(read, kind=kind, namespace=namespace, labels=labels)))

    def is_choosy(self, read: Read, key: ResourceKey) -> bool:
        """Tell whether a policy is for some proxies of its namespace only: by labels or by targets."""
        head: _Head | None = read.get(self._head, key)
        return head is not None and (bool(head.labels) or head.gateways is not None)

    def _file(self, key: ResourceKey, obj: Object) -> list[tuple[str, str, str]]:
        if key.kind != self._kind:
            return []
        head = _head(obj)
        if head.gateways is not None:
            return [(key.namespace, GATEWAY_NAME_LABEL, name) for name in head.gateways]
        return [(key.namespace, *(head.labels[0] if head.labels else _EVERY))]

    def _head_of(self, read: Read, key: ResourceKey) -> _Head | None:
        obj = read.get(self._mesh.objects, key)
        return _head(obj) if obj is not None else None

    def _attached(self, read: Read, key: tuple[str, str, tuple[tuple[str, str], ...]]) -> tuple[ResourceKey, ...]:
        kind, namespace, labels = key
        root = read.get(self._mesh.settings, "mesh").root_namespace
        held = frozenset(labels)
        name = dict(labels).get(GATEWAY_NAME_LABEL, "") if kind == "gateway" else ""
        found: list[ResourceKey] = []
        for owner in dict.fromkeys((root, namespace)):
            here: dict[ResourceKey, tuple[str, str, str]] = {}
            for label in (_EVERY, *labels):
                for policy in read.lookup(self._filed, (owner, *label)):
                    head = read.get(self._head, policy)
                    if head is not None and _is_for(head, owner, namespace, name, held):
                        here[policy] = head.age
            found.extend(sorted(here, key=lambda policy: here[policy]))
        return tuple(found)


def targets_of(spec: Any) -> tuple[Any, ...]:
    """Return the api PolicyTargetReferences of a policy, () when a selector says for whom it is."""
    if getattr(spec, "target_refs", ()):
        return tuple(spec.target_refs)
    target = getattr(spec, "target_ref", None)
    return (target,) if target is not None else ()


def _head(obj: Object) -> _Head:
    targets = targets_of(obj.spec)
    selector = obj.spec.selector
    return _Head(
        age=age_key(obj),
        labels=tuple(sorted((selector.match_labels or {}).items())) if selector is not None else (),
        # A policy for targets that are none of ours is for nobody: never for everyone.
        gateways=tuple(sorted({ref.name for ref in targets if (ref.group, ref.kind) == GATEWAY_TARGET}))
        if targets
        else None,
    )


def _is_for(head: _Head, owner: str, namespace: str, gateway: str, labels: frozenset[tuple[str, str]]) -> bool:
    if head.gateways is not None:
        return owner == namespace and bool(gateway) and gateway in head.gateways
    return labels.issuperset(head.labels)
