"""MeshConfig's `extensionProviders` that take reports, as proxies of one view reach them.

A provider that cannot be reached takes nothing: no logger is made and no span is sent, and it is told; nothing else
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lateen.api.providers import ExtensionProvider
from lateen.flow import Read
from lateen.pilot.model.cluster_names import cluster_name
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.values import Hostname
from lateen.pilot.model.values_telemetry import Collector

__all__ = ["Reach", "header_values"]


@dataclass(frozen=True, slots=True)
class Reach:
    """Finds providers by name, in any case, and the services behind them."""

    mesh: Mesh
    read: Read
    view: View
    find: Callable[[str], ExtensionProvider | None]

    def takes_metrics(self, name: str) -> bool:
        provider = self.find(name)
        return provider is not None and provider.prometheus is not None

    def collector(self, body: Any) -> Collector | None:
        """Return how `body.service`, `[namespace/]host`, is reached at `body.port`; None when it is not."""
        owner, _, host = body.service.rpartition("/")
        service = self.mesh.sight.imported(self.read, self.view, Hostname(host.lower()))
        if service is None or (owner and service.namespace != owner) or service.port(int(body.port)) is None:
            return None
        return Collector(cluster=cluster_name(int(body.port), "", service.hostname), authority=str(service.hostname))


def header_values(headers: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Return name and value of headers. No variable of the control plane's environment is given away."""
    return tuple((header.name, header.value) for header in headers if header.value)
