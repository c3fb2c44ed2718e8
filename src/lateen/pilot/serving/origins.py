"""Which resources of the API shaped an Envoy resource: rules first, then what they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lateen.api.base import Object, ResourceKey
from lateen.flow import Derived
from lateen.pilot.model.gateway_tcp import parse_sni_cluster
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.serving.scopes import Scope
from lateen.pilot.serving.view_scope import ViewScope
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, RDS, SDS

__all__ = ["culprits_of", "to_blame"]

BACKGROUND = ("Service", "Namespace", "MeshConfig")  # what rules are about; to blame only where no rule is


def culprits_of(
    mesh: Mesh, scope: Scope, type_url: str, name: str, named: Iterable[str] = ()
) -> tuple[ResourceKey, ...]:
    """Return the resources that shaped one resource of a scope.

    `named` are paths as metadata of the refused part name them: of what shaped the whole, only these and the patches of
    EnvoyFilters are returned then.
    """
    found: set[ResourceKey] = set()
    for derived, key in _makers(scope, type_url, name):
        for source, source_key in mesh.graph.provenance(derived, key):
            if source is mesh.objects and mesh.objects.get(source_key) is not None:
                found.add(source_key)
    if isinstance(scope, ViewScope) and type_url == LDS and _placed(scope, name):
        found.update(mesh.sidecars_of(scope.view))
    # Every EnvoyFilter of the proxy was asked; those that did nothing here are not to blame.
    mark = scope.keeper.mark(type_url, name)
    touched = {patch.key for patch in mark.touched} if mark is not None else set()
    found = {key for key in found if key.kind != "EnvoyFilter" or key in touched}
    paths = {path.rpartition("/apis/")[2].lower() for path in named}
    ends = {_end(path) for path in paths}
    known = any(kind == "envoyfilter" for kind, _, _ in ends)  # which patch it is was found out
    closer = {key for key in found if _path_end(key) in ends or (key.kind == "EnvoyFilter" and not known)}
    if known or any(key.kind != "EnvoyFilter" for key in closer):
        found = closer
    return tuple(sorted(found, key=lambda key: (key.kind in BACKGROUND, key)))


def to_blame(objects: Iterable[Object]) -> list[Object]:
    """Return the rules among the resources that shaped something; all of them where there is no rule."""
    everything = list(objects)
    return [obj for obj in everything if obj.key.kind not in BACKGROUND] or everything


def _end(path: str) -> tuple[str, str, str]:
    """Return (kind without hyphens, namespace, name) of a path `.../namespaces/<namespace>/<kind>/<name>`."""
    parts = path.split("/")
    return (parts[-2].replace("-", ""), parts[-3], parts[-1]) if len(parts) > 3 else ("", "", "")


def _path_end(key: ResourceKey) -> tuple[str, str, str]:
    return key.kind.lower(), key.namespace.lower(), key.name.lower()


def _makers(scope: Scope, type_url: str, name: str) -> Iterator[tuple[Derived[Any, Any], Any]]:
    """Yield the derived values that a resource of a scope may have come from."""
    render = scope.render
    if not isinstance(scope, ViewScope):
        if type_url == CDS:
            yield render.inbound_clusters, scope.workload
        elif type_url == LDS:
            yield render.inbound_listeners, scope.workload
        elif type_url == ECDS:
            yield render.inbound_extensions, (scope.workload, name)
        return
    view = scope.view
    match type_url:
        case _ if type_url == RDS:
            yield render.routes, (view, name)
        case _ if type_url == ECDS:
            yield render.extensions, (view, name)
        case _ if type_url == EDS:
            yield render.endpoints, (view, name)
        case _ if type_url == SDS:
            yield render.secrets, (view, name)
        case _ if type_url == CDS and (through := parse_sni_cluster(name)) is not None:
            yield render.clusters, (view, through[2])
        case _ if type_url == CDS:
            parts = name.split("|", 3)
            if parts[0] == "outbound" and len(parts) == 4:
                yield render.clusters, (view, parts[3])
            else:
                yield render.base_clusters, view
                yield render.added_clusters, view
        case _ if type_url == LDS:
            bind, _, port = name.rpartition("_")
            yield render.added_listeners, view
            if not bind or view.kind == "gateway" or _placed(scope, name):
                yield render.base_listeners, view
            elif port.isdecimal():
                yield render.port_listeners, (view, int(port))
                for entry in scope.entries():
                    if bind in entry.addresses:
                        yield render.service_listeners, (view, entry.hostname)


def _placed(scope: ViewScope, name: str) -> bool:
    """Tell whether a listener is the socket of a Sidecar."""
    return any(entry.placed and entry.route_name == name for entry in scope.view.scope.egress)
