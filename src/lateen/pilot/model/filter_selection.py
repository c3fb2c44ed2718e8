"""Which proxies an EnvoyFilter is for: its selector, its targets, and what its patches ask of the proxy itself.

In:  one EnvoyFilter; a workload's labels; what its proxy says of itself. Out: the patches that are for it.
Rules: docs/api/EnvoyFilter.md "Which proxies".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lateen.api.base import Object
from lateen.api.envoy_filter import EnvoyFilter
from lateen.pilot.model.regex_search import regex_finds

__all__ = ["GATEWAY_NAME", "VERSION_KEY", "chosen_patches", "is_choosy"]

GATEWAY_NAME: Final = "gateway.networking.k8s.io/gateway-name"  # label of the proxies of a Kubernetes Gateway
VERSION_KEY: Final = "ISTIO_VERSION"  # node metadata


def is_choosy(spec: EnvoyFilter) -> bool:
    """Tell whether anything but its namespace decides which proxies the filter is for."""
    return (
        bool(_wanted_labels(spec)) or bool(spec.target_refs) or any(_asks_proxy(patch) for patch in spec.config_patches)
    )


def chosen_patches(
    obj: Object, *, namespace: str, labels: Mapping[str, str], metadata: Callable[[], Mapping[str, Any]]
) -> tuple[int, ...]:
    """Return the positions of the patches that are for a proxy, () when the filter is not for it at all.

    `metadata` is asked only where a patch wants to know. The namespaces were compared before.
    """
    spec: EnvoyFilter = obj.spec
    if spec.target_refs:
        gateway = labels.get(GATEWAY_NAME)
        if gateway is None or not any(
            ref.kind == "Gateway" and ref.name == gateway and obj.key.namespace == namespace for ref in spec.target_refs
        ):
            return ()
    elif any(labels.get(key) != value for key, value in _wanted_labels(spec).items()):
        return ()
    return tuple(
        position
        for position, patch in enumerate(spec.config_patches)
        if not _asks_proxy(patch) or _is_for(_proxy_match(patch), metadata())
    )


def _wanted_labels(spec: EnvoyFilter) -> Mapping[str, str]:
    return spec.workload_selector.labels if spec.workload_selector is not None else {}


def _asks_proxy(patch: Any) -> bool:
    proxy = _proxy_match(patch)
    return proxy is not None and bool(proxy.proxy_version or proxy.metadata)


def _proxy_match(patch: Any) -> Any:
    return patch.match.proxy if patch.match is not None else None


def _is_for(wanted: Any, metadata: Mapping[str, Any]) -> bool:
    for key, value in wanted.metadata.items():
        if metadata.get(key) != value:
            return False
    if not wanted.proxy_version:
        return True
    version = metadata.get(VERSION_KEY)
    return isinstance(version, str) and regex_finds(wanted.proxy_version, version)
