"""Lead tracers to a cluster that the tasting Envoy has. Pure.

Some tracers want their cluster to be there when a listener comes. A proxy has been given it by then; the tasting Envoy
judges each resource alone. Clusters of services only: another name is as wrong there as it is in a proxy.
"""

from __future__ import annotations

from typing import Any, Final

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.trace.v3.datadog_pb2 import DatadogConfig
from envoy.config.trace.v3.zipkin_pb2 import ZipkinConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.pilot.taste.loggers import filters_of

__all__ = ["lead_tracers"]

_PREFIX: Final = "type.googleapis.com/"
_MANAGER: Final = _PREFIX + HttpConnectionManager.DESCRIPTOR.full_name
_TRACERS: Final = {_PREFIX + kind.DESCRIPTOR.full_name: kind for kind in (ZipkinConfig, DatadogConfig)}
_SERVICE: Final = "outbound|"


def lead_tracers(listener: Listener, cluster: str) -> None:
    """Let the tracers of a listener's filters that lead to a service lead to `cluster`."""
    for packed in filters_of(listener):
        if packed.type_url == _MANAGER:
            manager = HttpConnectionManager.FromString(packed.value)
            if _led(manager.tracing.provider.typed_config, cluster):
                packed.value = manager.SerializeToString(deterministic=True)


def _led(packed: AnyMessage, cluster: str) -> bool:
    kind = _TRACERS.get(packed.type_url)
    if kind is None:
        return False
    config: Any = kind.FromString(packed.value)
    led = False
    if config.collector_cluster.startswith(_SERVICE):
        config.collector_cluster, led = cluster, True
    if isinstance(config, ZipkinConfig) and config.collector_service.http_uri.cluster.startswith(_SERVICE):
        config.collector_service.http_uri.cluster, led = cluster, True
    packed.value = config.SerializeToString(deterministic=True)
    return led
