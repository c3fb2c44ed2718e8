"""How a proxy asks for the endpoints of the service that its own workload serves.

Envoy shares traffic between zones by comparing where its own service's endpoints are with where another's are. For that
its bootstrap has one more cluster, of this name, whose endpoints the control plane gives under `local_endpoints_name`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LOCAL_CLUSTER", "SELF_DISCOVERY", "local_endpoints_name", "parse_local_endpoints_name"]

LOCAL_CLUSTER: Final = "local_cluster"  # Istio's
SELF_DISCOVERY: Final = "ISTIO_META_ENABLE_SELF_DISCOVERY"  # in the environment of `lateen run`: "true" asks for it
_PREFIX: Final = "local|"


def local_endpoints_name(hostname: str) -> str:
    """Return the name under which the endpoints of a proxy's own service are asked for."""
    return f"{_PREFIX}{hostname}"


def parse_local_endpoints_name(name: str) -> str | None:
    """Return the hostname in such a name; None for any other name."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None
