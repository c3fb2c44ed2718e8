"""A workload that is started from a WorkloadGroup: what its user said, filled up with what the group says. Pure.

Rules: Istio's automatic registration, docs/api/WorkloadGroup.md.
"""

from __future__ import annotations

from dataclasses import replace

from lateen.agent.spec import WorkloadSpec
from lateen.wire.local import GroupInfo, WorkloadPort

__all__ = ["apply_group"]


def apply_group(spec: WorkloadSpec, group: GroupInfo) -> WorkloadSpec:
    """Return `spec` with the group's identity and probe, and with its labels, ports and place where `spec` has none."""
    named = {port.name: port for port in spec.ports}
    taken = {port.number for port in spec.ports}
    ports = tuple(
        WorkloadPort(name=name, number=number, target=number)
        for name, number in sorted(group.ports.items())
        if name not in named and number not in taken
    )
    return replace(
        spec,
        service_account=group.service_account,
        labels={**group.labels, **spec.labels},
        annotations={**group.annotations, **spec.annotations},
        ports=(*spec.ports, *ports),
        locality=spec.locality or group.locality,
        network=spec.network or group.network,
        weight=group.weight,
        probe=group.probe,
    )
