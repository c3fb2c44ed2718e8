"""The names that tie Envoy resources together, and that people's tools read.

In:  hostnames, ports, subsets. Out: names of clusters, listeners and server names (SNI).
Rules: Istio's naming, docs/api/translation.md. Pure text and no protobuf, so that the model can use it too.
"""

from __future__ import annotations

from typing import Final

from lateen.pilot.model.values import Cluster

__all__ = [
    "BLACK_HOLE",
    "DYNAMIC",
    "INBOUND_PASSTHROUGH",
    "PASSTHROUGH",
    "VIRTUAL_INBOUND",
    "VIRTUAL_OUTBOUND",
    "WILDCARDS",
    "inbound_cluster_name",
    "inbound_vhost_name",
    "listener_name",
    "outbound_cluster_name",
    "outbound_sni",
    "stat_name",
]

PASSTHROUGH: Final = Cluster("PassthroughCluster")
BLACK_HOLE: Final = Cluster("BlackHoleCluster")
DYNAMIC: Final = Cluster("AllowAnyDynamicDNSCluster")
INBOUND_PASSTHROUGH: Final = Cluster("InboundPassthroughCluster")

VIRTUAL_OUTBOUND: Final = "virtualOutbound"
VIRTUAL_INBOUND: Final = "virtualInbound"

WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - an address to compare with, nothing is bound here


def outbound_cluster_name(hostname: str, port: int, subset: str = "") -> Cluster:
    """Return the name of the cluster for one service port, `outbound|9080|v1|reviews.default.svc.cluster.local`."""
    return Cluster(f"outbound|{port}|{subset}|{hostname}")


def outbound_sni(hostname: str, port: int, subset: str = "") -> str:
    """Return the server name that mesh clients send; gateways that pass TLS through route by it."""
    return f"outbound_.{port}_.{subset}_.{hostname}"


def inbound_cluster_name(port: int) -> Cluster:
    """Return the name of the cluster for one port of the workload itself; `port` is the target port."""
    return Cluster(f"inbound|{port}||")


def inbound_vhost_name(service_port: int) -> str:
    """Return the name of the one virtual host of an inbound HTTP port."""
    return f"inbound|http|{service_port}"


def listener_name(bind: str, port: int) -> str:
    """Return the name of a listener on one address, `10.96.0.7_9080`; of a Unix socket, its path."""
    return bind.removeprefix("unix://") if bind.startswith(("unix:", "/")) else f"{bind}_{port}"


def stat_name(name: str) -> str:
    """Return `name` as native statistics carry it: the `;` ends what Envoy's tag patterns take as the name."""
    return f"{name};"
