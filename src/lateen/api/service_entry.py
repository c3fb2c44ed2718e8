"""networking.istio.io ServiceEntry, as written: a service that the mesh shall know.

Shapes only; the rules beyond them are in `lateen.api.check_service_entry`. Meaning and defaults:
docs/api/ServiceEntry.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from lateen.api.base import Spec
from lateen.api.scalars import UInt32
from lateen.api.selectors import WorkloadLabels
from lateen.api.workload_entry import WorkloadEntry

__all__ = ["ServiceEntry", "ServicePort"]


class ServicePort(Spec, frozen=True, kw_only=True):
    number: UInt32
    name: Annotated[str, Meta(max_length=256)]
    protocol: Annotated[str, Meta(max_length=256)] = ""  # "": sniffed
    target_port: UInt32 = 0  # 0: number


class ServiceEntry(Spec, frozen=True, kw_only=True):
    hosts: Annotated[tuple[str, ...], Meta(max_length=256)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=256)] = ()  # IP or CIDR
    ports: Annotated[tuple[ServicePort, ...], Meta(max_length=256)] = ()
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: Annotated[tuple[WorkloadEntry, ...], Meta(max_length=4096)] = ()
    workload_selector: WorkloadLabels | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
