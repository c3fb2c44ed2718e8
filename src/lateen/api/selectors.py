"""How resources say which workloads they are for. Rules: docs/api/README.md "Selectors" and "targetRefs"."""

from __future__ import annotations

from typing import Literal

from lateen.api.base import EMPTY, Spec
from lateen.api.scalars import Mapping

__all__ = ["LabelSelector", "LabelSelectorRequirement", "PolicyTargetReference", "WorkloadLabels", "WorkloadSelector"]


class WorkloadLabels(Spec, frozen=True, kw_only=True):
    """`workloadSelector.labels` of Sidecar, EnvoyFilter, ServiceEntry. No labels: every workload in scope."""

    labels: Mapping[str, str] = EMPTY


class WorkloadSelector(Spec, frozen=True, kw_only=True):
    """`selector.matchLabels` of policies, `workloadSelector.matchLabels` of DestinationRule."""

    match_labels: Mapping[str, str] = EMPTY


class LabelSelectorRequirement(Spec, frozen=True, kw_only=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Spec, frozen=True, kw_only=True):
    """Kubernetes' selector: all labels and all expressions must hold."""

    match_labels: Mapping[str, str] = EMPTY
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class PolicyTargetReference(Spec, frozen=True, kw_only=True):
    """One entry of `targetRefs`. `namespace` must stay empty."""

    group: str = ""
    kind: str
    name: str
    namespace: str = ""
