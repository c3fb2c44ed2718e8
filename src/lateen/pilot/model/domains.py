"""The names under which a client's request reaches a service: a virtual host's domains.

Rules: Istio's domain generation for sidecars; ports are not part of them, because route configurations ignore ports.
"""

from __future__ import annotations

from collections.abc import Iterable

from lateen.pilot.model.values import Hostname
from lateen.pilot.registry.services import CLUSTER_DOMAIN

__all__ = ["service_domains", "short_names"]

_SUFFIX = f".svc.{CLUSTER_DOMAIN}"


def short_names(hostname: str, namespace: str) -> tuple[str, ...]:
    """Return the shorter names of a cluster-local `hostname` that resolve from `namespace`, longest last."""
    if not hostname.endswith(_SUFFIX):
        return ()
    parts = hostname.removesuffix(_SUFFIX).split(".")
    if len(parts) != 2:
        return ()
    name, owner = parts
    names = (f"{name}.{owner}", f"{name}.{owner}.svc")
    return (name, *names) if owner == namespace else names


def service_domains(
    hostname: Hostname, namespace: str, addresses: Iterable[str], *, headless: bool, ports: Iterable[int] = ()
) -> tuple[str, ...]:
    """Return the domains of one service as seen from `namespace`, without duplicates, most exact first.

    `ports` adds `domain:port` beside each (where ports are not ignored: the HTTP proxy listener).
    """
    names = [str(hostname)]
    if not hostname.startswith("*"):
        names.append(f"{hostname}.")
    names.extend(short_names(hostname, namespace))
    if headless:
        names.extend([f"*.{name}" for name in names if not name.startswith("*")])
    for address in addresses:
        if "/" not in address and address != "0.0.0.0":  # noqa: S104  # compared, not bound
            names.append(f"[{address}]" if ":" in address else address)
    wanted = tuple(ports)
    spelled = [spelling for name in names for spelling in (name, *(f"{name}:{port}" for port in wanted))]
    return tuple(dict.fromkeys(spelled))
