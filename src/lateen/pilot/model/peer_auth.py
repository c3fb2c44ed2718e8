"""PeerAuthentications: the mode in force at one port of one workload.

Rules: docs/api/PeerAuthentication.md. Scopes: mesh (root namespace, no selector) < namespace < workload; the oldest of
each scope counts, UNSET inherits, nothing anywhere is PERMISSIVE. Ports are named only by workload policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lateen.api.base import Object
from lateen.pilot.model.policy import age_key
from lateen.pilot.model.values import MtlsMode

__all__ = ["mtls_mode", "ports_named"]

_MODES = {"DISABLE": MtlsMode.DISABLE, "PERMISSIVE": MtlsMode.PERMISSIVE, "STRICT": MtlsMode.STRICT}


def mtls_mode(
    in_root: Iterable[Object], in_namespace: Iterable[Object], labels: Mapping[str, str], port: int | None
) -> MtlsMode:
    """Return the mode of `port` (the application's; None: any port no service names).

    `in_root` and `in_namespace` are the PeerAuthentications of the root and of the workload's own namespace, the same
    ones twice for workloads of the root namespace itself: one with a selector acts in its own namespace only.
    """
    namespace = tuple(in_namespace)
    mesh_wide = _oldest(policy for policy in in_root if not _selector(policy))
    namespace_wide = _oldest(policy for policy in namespace if not _selector(policy))
    workload = _of_workload(namespace, labels)
    if workload is not None and port is not None:
        at_port = _mode((workload.spec.port_level_mtls or {}).get(port))
        if at_port is not None:
            return at_port
    for policy in (workload, namespace_wide, mesh_wide):
        found = _mode(policy.spec.mtls) if policy is not None else None
        if found is not None:
            return found
    return MtlsMode.PERMISSIVE


def ports_named(in_namespace: Iterable[Object], labels: Mapping[str, str]) -> tuple[int, ...]:
    """Return the ports that the policy of a workload itself names, sorted."""
    workload = _of_workload(in_namespace, labels)
    return tuple(sorted(workload.spec.port_level_mtls or ())) if workload is not None else ()


def _of_workload(in_namespace: Iterable[Object], labels: Mapping[str, str]) -> Object | None:
    return _oldest(policy for policy in in_namespace if _selector(policy) and _selects(policy, labels))


def _oldest(policies: Iterable[Object]) -> Object | None:
    return min(policies, key=age_key, default=None)


def _selector(policy: Object) -> Mapping[str, str]:
    selector = policy.spec.selector
    return (selector.match_labels or {}) if selector is not None else {}


def _selects(policy: Object, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in _selector(policy).items())


def _mode(mtls: Any) -> MtlsMode | None:
    mode = getattr(mtls, "mode", None)
    return _MODES.get(str(getattr(mode, "value", mode)))
