"""networking.istio.io WorkloadGroup, as written: what workloads that register themselves have in common.

Rules beyond the shape: `lateen.api.check_workloads`. Meaning and defaults: docs/api/WorkloadGroup.md.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Mapping, UInt32
from lateen.api.workload_entry import WorkloadEntry

__all__ = [
    "ExecAction",
    "GRPCAction",
    "HTTPGetAction",
    "HTTPHeader",
    "ObjectMeta",
    "ReadinessProbe",
    "TCPSocketAction",
    "WorkloadGroup",
]

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class ObjectMeta(Spec, frozen=True, kw_only=True):
    labels: Annotated[Mapping[str, str], Meta(max_length=256)] = EMPTY
    annotations: Annotated[Mapping[str, str], Meta(max_length=256)] = EMPTY


class HTTPHeader(Spec, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""


class HTTPGetAction(Spec, frozen=True, kw_only=True):
    path: str = ""
    port: UInt32
    host: str = ""  # "": the workload's IP
    scheme: str = ""  # "": HTTP
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(Spec, frozen=True, kw_only=True):
    host: str = ""  # "": localhost
    port: UInt32


class ExecAction(Spec, frozen=True, kw_only=True):
    command: tuple[Annotated[str, Meta(min_length=1)], ...]


class GRPCAction(Spec, frozen=True, kw_only=True):
    port: UInt32 = 0
    service: str = ""


class ReadinessProbe(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("http_get", "tcp_socket", "exec", "grpc"),)

    initial_delay_seconds: Count = 0
    timeout_seconds: Count = 0  # 0: 1
    period_seconds: Count = 0  # 0: 10
    success_threshold: Count = 0  # 0: 1
    failure_threshold: Count = 0  # 0: 3
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    exec: ExecAction | None = None
    grpc: GRPCAction | None = None


class WorkloadGroup(Spec, frozen=True, kw_only=True):
    metadata: ObjectMeta | None = None  # goes onto every WorkloadEntry made from the group
    template: WorkloadEntry
    probe: ReadinessProbe | None = None
