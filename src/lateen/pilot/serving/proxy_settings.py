"""What an agent is told of its proxy when it registers: the fields of a ProxyConfig that act on one machine.

In:  the effective proxy configuration, in the API's words. Out: the message. Pure.
"""

from __future__ import annotations

from datetime import timedelta

from lateen.api.mesh_proxy import MeshProxyConfig, ProxyStatsMatcher
from lateen.pilot.model.proxy_config import is_allowed_variable
from lateen.wire.local import ProxySettings

__all__ = ["proxy_settings"]


def proxy_settings(proxy: MeshProxyConfig, *, merge_metrics: bool = True) -> ProxySettings:
    """Return the message; what is not set leaves the agent its own choice."""
    stats = proxy.proxy_stats_matcher or ProxyStatsMatcher()
    connections = proxy.connection_settings
    return ProxySettings(
        concurrency=proxy.concurrency,
        environment={
            name: value for name, value in sorted((proxy.proxy_metadata or {}).items()) if is_allowed_variable(name)
        },
        service_cluster=proxy.service_cluster or "",
        tracing_service_name=proxy.tracing_service_name or "",
        mesh_id=proxy.mesh_id or "",
        drain_seconds=_seconds(proxy.drain_duration),
        termination_drain_seconds=_seconds(proxy.termination_drain_duration),
        flush_seconds=_seconds(proxy.file_flush_interval),
        flush_kilobytes=proxy.file_flush_min_size_kb,
        stats_prefixes=stats.inclusion_prefixes,
        stats_suffixes=stats.inclusion_suffixes,
        stats_regexes=stats.inclusion_regexps,
        runtime=dict(sorted((proxy.runtime_values or {}).items())),
        connection_limit=connections.global_downstream_connection_limit if connections is not None else None,
        merge_metrics=merge_metrics,
    )


def _seconds(duration: timedelta | None) -> float | None:
    return duration.total_seconds() if duration is not None else None
