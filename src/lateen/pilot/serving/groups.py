"""What a workload is told that wants to be one of a WorkloadGroup.

In:  the resources, and which group is meant.
Out: one `GroupInfo`: template and probe with Istio's defaults applied.
Rules: docs/api/WorkloadGroup.md.
"""

from __future__ import annotations

from typing import Any

from lateen.api.base import Object
from lateen.errors import BadInput
from lateen.pilot.model.locality import locality_of
from lateen.pilot.model.mesh import Mesh
from lateen.wire.local import GroupInfo, GroupQuery, Probe

__all__ = ["build_group_info", "group_info"]


def group_info(mesh: Mesh, query: GroupQuery) -> GroupInfo:
    """Return the group that `query` names. Raises `BadInput` when there is none, with those that there are."""
    names = []
    for key, obj in mesh.objects.items():
        if key.kind == "WorkloadGroup" and key.namespace == query.namespace:
            if key.name == query.name:
                return build_group_info(obj)
            names.append(key.name)
    there = f"there are {', '.join(sorted(names))}" if names else "there is none"
    raise BadInput(f"no WorkloadGroup {query.name!r} in namespace {query.namespace!r}; {there}")


def build_group_info(obj: Object) -> GroupInfo:
    """Return what workloads of this group have in common."""
    template, metadata = obj.spec.template, obj.spec.metadata
    labels = {**template.labels, **(metadata.labels if metadata is not None else {})}
    return GroupInfo(
        name=obj.key.name,
        namespace=obj.key.namespace,
        service_account=template.service_account or "default",
        labels=labels,
        annotations=dict(metadata.annotations) if metadata is not None else {},
        ports=dict(template.ports),
        locality=locality_of(template.locality, labels),
        network=template.network,
        weight=template.weight or 1,
        probe=_probe(obj.spec.probe) if obj.spec.probe is not None else None,
    )


def _probe(probe: Any) -> Probe | None:
    timing = {
        "initial_delay_seconds": probe.initial_delay_seconds,
        "timeout_seconds": probe.timeout_seconds or 1,
        "period_seconds": probe.period_seconds or 10,
        "success_threshold": probe.success_threshold or 1,
        "failure_threshold": probe.failure_threshold or 3,
    }
    if (http := probe.http_get) is not None:
        headers = tuple((header.name, header.value) for header in http.http_headers)
        path = http.path if http.path.startswith("/") else f"/{http.path}"
        scheme = http.scheme or "HTTP"
        return Probe(kind="http", host=http.host, port=http.port, path=path, scheme=scheme, headers=headers, **timing)
    if (tcp := probe.tcp_socket) is not None:
        return Probe(kind="tcp", host=tcp.host or "localhost", port=tcp.port, **timing)
    if probe.exec is not None:
        return Probe(kind="exec", command=tuple(probe.exec.command), **timing)
    if probe.grpc is not None:
        return Probe(kind="grpc", port=probe.grpc.port, service=probe.grpc.service, **timing)
    return None
