"""How a proxy is started: ProxyConfigs over the mesh's `defaultConfig`, as one value for one workload.

In:  MeshConfig's `defaultConfig`, the ProxyConfigs of the root namespace and of the workload's.
Out: the fields in force, still in the API's words. They act when a proxy starts: it is told at its registration.
Rules: docs/api/ProxyConfig.md "Precedence" (Istio's merge; later wins field by field, variables one by one).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from lateen.api.base import Object
from lateen.api.frozen import FrozenMap
from lateen.api.mesh_proxy import MeshProxyConfig
from lateen.pilot.model.policy import age_key

__all__ = ["effective_proxy", "is_allowed_variable"]


def effective_proxy(
    default: MeshProxyConfig | None,
    *,
    of_root: Sequence[Object],
    of_namespace: Sequence[Object],
    labels: Mapping[str, str],
) -> MeshProxyConfig:
    """Return what is in force for a workload with `labels`.

    `of_root` and `of_namespace` are the ProxyConfigs of the two namespaces; for the root namespace itself pass its own
    as `of_namespace` alone. Of several at one level the oldest counts.
    """
    levels = (
        _oldest(obj for obj in of_root if not _selector(obj)),
        _oldest(obj for obj in of_namespace if not _selector(obj)),
        _oldest(obj for obj in of_namespace if _selector(obj) and _selects(obj, labels)),
    )
    merged = default or MeshProxyConfig()
    for obj in levels:
        if obj is None:
            continue
        spec = obj.spec
        changes: dict[str, Any] = {}
        if spec.concurrency is not None:
            changes["concurrency"] = spec.concurrency
        if spec.environment_variables:
            changes["proxy_metadata"] = FrozenMap({**(merged.proxy_metadata or {}), **spec.environment_variables})
        merged = msgspec.structs.replace(merged, **changes)
    return merged


def is_allowed_variable(name: str) -> bool:
    """Tell whether configuration may set a variable of a proxy's environment.

    Not those by which the loader of programs is made to run something else: whoever may write configuration steers
    traffic, and gets no process of the user's for it.
    """
    return name.isidentifier() and name.isascii() and not name.startswith("LD_") and name != "PATH"


def _oldest(found: Iterable[Object]) -> Object | None:
    return min(found, key=age_key, default=None)


def _selector(obj: Object) -> Mapping[str, str]:
    selector = obj.spec.selector
    return selector.match_labels if selector is not None else {}


def _selects(obj: Object, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in _selector(obj).items())
