"""Patch one cluster.

In:  a built cluster, and the patches that may act on it. Out: the cluster, None when one removes it.
Rules: docs/api/EnvoyFilter.md "Clusters".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster

from lateen.pilot.model.envoy_filters import Patch
from lateen.pilot.translate.patches.outcome import Trace
from lateen.pilot.translate.patches.values import merges, message_of, try_merge

__all__ = ["added_clusters", "patch_cluster"]


def patch_cluster(cluster: Cluster, patches: Sequence[Patch], trace: Trace, *, inbound: bool) -> Cluster | None:
    """Apply removals and merges, in order."""
    for patch in patches:
        if patch.apply_to != "CLUSTER" or not _matches(cluster.name, patch, inbound=inbound):
            continue
        if patch.operation == "REMOVE":
            trace.hit(patch)
            return None
        if merges(patch):
            cluster = _merge_cluster(cluster, patch, trace)
    return cluster


def added_clusters(patches: Sequence[Patch], trace: Trace) -> list[Cluster]:
    """Return the clusters that patches add to a view."""
    found = []
    for patch in patches:
        if patch.apply_to == "CLUSTER" and patch.adds:
            trace.hit(patch)
            found.append(message_of(patch))
    return found


def _matches(name: str, patch: Patch, *, inbound: bool) -> bool:
    wanted = patch.match.cluster
    if wanted is None:
        return True
    if wanted.name:
        return wanted.name == name
    parts = name.split("|", 3)
    if len(parts) != 4:
        return not (wanted.port_number or wanted.subset or (wanted.service and not inbound))
    _, port, subset, host = parts
    return not (
        (wanted.port_number and str(wanted.port_number) != port)
        or (wanted.subset and wanted.subset != subset)
        or (wanted.service and not inbound and wanted.service.lower() != host)
    )


def _merge_cluster(cluster: Cluster, patch: Patch, trace: Trace) -> Cluster:
    """Merge; a transport socket goes into those of the cluster's that are chosen endpoint by endpoint.

    A cluster has one socket or several to choose from: Envoy would take the chosen one, whatever the other says.
    """
    said = message_of(patch)
    if not cluster.transport_socket_matches or not said.HasField("transport_socket"):
        return _as_cluster(try_merge(cluster, patch, trace))
    result = _as_cluster(try_merge(cluster, patch, trace))
    result.ClearField("transport_socket")
    shell = Cluster(transport_socket=said.transport_socket)
    found = False
    for position, entry in enumerate(cluster.transport_socket_matches):
        if entry.transport_socket.name == shell.transport_socket.name:
            base = Cluster(transport_socket=entry.transport_socket)
            socket = _as_cluster(try_merge(base, patch, trace)).transport_socket
            result.transport_socket_matches[position].transport_socket.CopyFrom(socket)
            found = True
    if not found:
        trace.failed(patch, f"the cluster chooses its socket by endpoint, none is a {shell.transport_socket.name}")
    return result


def _as_cluster(message: Any) -> Cluster:
    return message
