"""What the mesh says of this workload's proxy, put together with what it was started with.

In:  the workload as asked for, and `ProxySettings` of the registration. Out: the workload as it runs. Pure.
What a person said on the command line stands before what the mesh says; rules: docs/api/ProxyConfig.md.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from lateen.agent.spec import CANONICAL_NAME, Node, WorkloadSpec, effective_labels
from lateen.wire.local import ProxySettings

__all__ = ["CONCURRENCY", "DRAIN", "node_with", "spec_with"]

CONCURRENCY: Final = 1  # worker threads of Envoy where nobody says: on a laptop, one a workload
DRAIN: Final = timedelta(seconds=5)  # Istio's terminationDrainDuration
META: Final = "ISTIO_META_"
ISTIOS_OWN: Final = "istio-proxy"  # serviceCluster where nobody says: then the node names app and namespace


def spec_with(spec: WorkloadSpec, proxy: ProxySettings) -> WorkloadSpec:
    """Return the workload with the proxy's threads and its longest drain decided."""
    threads = spec.concurrency if spec.concurrency is not None else proxy.concurrency
    drain = spec.drain
    if drain is None:
        seconds = proxy.termination_drain_seconds
        drain = timedelta(seconds=seconds) if seconds is not None else DRAIN
    return replace(
        spec,
        concurrency=CONCURRENCY if threads is None else threads or os.cpu_count() or CONCURRENCY,
        drain=drain,
    )


def node_with(node: Node, spec: WorkloadSpec, proxy: ProxySettings) -> Node:
    """Return the node with `ISTIO_META_*` as metadata, beside what the agent says, and with the cluster's name."""
    own: dict[str, Any] = {
        name.removeprefix(META): value for name, value in proxy.environment.items() if name.startswith(META)
    }
    if proxy.mesh_id:
        own["MESH_ID"] = proxy.mesh_id
    kept = {name: value for name, value in node.metadata.items() if name != "MESH_ID" or not proxy.mesh_id}
    return replace(node, metadata={**own, **kept}, cluster=_cluster(node, spec, proxy))


def _cluster(node: Node, spec: WorkloadSpec, proxy: ProxySettings) -> str:
    canonical = effective_labels(spec)[CANONICAL_NAME]
    match proxy.tracing_service_name:
        case "CANONICAL_NAME_ONLY":
            return canonical
        case "CANONICAL_NAME_AND_NAMESPACE":
            return f"{canonical}.{spec.namespace}"
    return proxy.service_cluster if proxy.service_cluster not in ("", ISTIOS_OWN) else node.cluster
