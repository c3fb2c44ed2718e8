"""What a cluster's own statistics are called where the mesh says it: patterns of MeshConfig, filled in.

Rules: MeshConfig `outboundClusterStatName`, `inboundClusterStatName`; docs/api/MeshConfig.md. A pattern may say
anything beside its variables; one that is not known stays as it is written.
"""

from __future__ import annotations

from lateen.pilot.registry.values import Registry, Service, ServicePort

__all__ = ["stat_name_of"]


def stat_name_of(pattern: str, service: Service, port: ServicePort, *, subset: str = "") -> str:
    """Return the name of one port's statistics, "" where there is no pattern: then the cluster's own name."""
    if not pattern:
        return ""
    ours = service.registry is not Registry.SERVICE_ENTRY
    target = port.target if port.target is not None else port.number
    for variable, value in (
        ("%SERVICE%", f"{service.name}.{service.namespace}" if ours else service.hostname),
        ("%SERVICE_NAME%", service.name),
        ("%SERVICE_FQDN%", service.hostname),
        ("%SERVICE_PORT%", str(port.number)),
        ("%SERVICE_PORT_NAME%", port.name),
        ("%TARGET_PORT%", str(target)),
        ("%SUBSET_NAME%", subset),
    ):
        pattern = pattern.replace(variable, value)
    return pattern
