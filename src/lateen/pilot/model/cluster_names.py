"""The names of clusters that lead out of a proxy: written and read here, and as Istio's tools read them."""

from __future__ import annotations

from lateen.pilot.model.values import Cluster, Hostname

__all__ = ["cluster_name", "parse_cluster_name"]


def cluster_name(port: int, subset: str, hostname: str) -> Cluster:
    """Return the name of an outbound cluster, as Istio's tools read it."""
    return Cluster(f"outbound|{port}|{subset}|{hostname}")


def parse_cluster_name(name: str) -> tuple[int, str, Hostname] | None:
    """Return (port, subset, hostname) of an outbound cluster's name; None for any other name."""
    parts = name.split("|", 3)
    if len(parts) != 4 or parts[0] != "outbound" or not parts[1].isdecimal() or len(parts[1]) > 5:
        return None
    return int(parts[1]), parts[2], Hostname(parts[3])
