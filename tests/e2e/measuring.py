"""What the proxies of a mesh counted, as Prometheus would read it."""

from __future__ import annotations

from tests.e2e.harness import MeshRun

__all__ = ["samples"]


def samples(mesh: MeshRun, workload: str, family: str, *labels: str) -> float:
    """Return the sum of a metric's samples that have all these labels, written `name="value"`."""
    total = 0.0
    for line in mesh.metrics(workload).splitlines():
        if line.startswith(f"{family}{{") and all(label in line for label in labels):
            total += float(line.rpartition(" ")[2])
    return total
