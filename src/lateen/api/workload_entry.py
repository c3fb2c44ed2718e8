"""networking.istio.io WorkloadEntry, as written: one workload that no cluster knows of.

Rules beyond the shape: `lateen.api.check_workloads`. Meaning and defaults: docs/api/WorkloadEntry.md.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from lateen.api.base import EMPTY, Spec
from lateen.api.scalars import Mapping, UInt32

__all__ = ["WorkloadEntry"]


class WorkloadEntry(Spec, frozen=True, kw_only=True):
    """Also inline: `ServiceEntry.endpoints`, `WorkloadGroup.template`."""

    address: Annotated[str, Meta(max_length=256)] = ""  # IP, FQDN, unix:///path, unix://@name
    ports: Annotated[Mapping[str, UInt32], Meta(max_length=128)] = EMPTY  # service's port name -> port
    labels: Annotated[Mapping[str, str], Meta(max_length=256)] = EMPTY
    network: Annotated[str, Meta(max_length=2048)] = ""
    locality: Annotated[str, Meta(max_length=2048)] = ""  # region/zone/subzone
    weight: UInt32 = 0  # 0: as the others
    service_account: Annotated[str, Meta(max_length=253)] = ""
