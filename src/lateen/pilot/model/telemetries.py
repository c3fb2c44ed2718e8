"""What the proxies of a view report: Telemetries, MeshConfig's providers, and the older settings where neither speaks.

In:  a view and a side. Out: one `Telemetry`.
Rules: Istio's Telemetry, docs/api/Telemetry.md. Which Telemetries choose a proxy is in its view; here are levels and
order. How each kind of report is merged is in `telemetry_metrics`, `telemetry_logs` and `telemetry_tracing`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from lateen.api.base import Object, ResourceKey
from lateen.api.mesh import find_provider
from lateen.api.providers import BUILT_IN_PROVIDERS, ExtensionProvider
from lateen.flow import Read
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.policy import age_key
from lateen.pilot.model.telemetry_logs import merge_logs
from lateen.pilot.model.telemetry_metrics import merge_metrics
from lateen.pilot.model.telemetry_providers import Reach
from lateen.pilot.model.telemetry_tracing import merge_tracing
from lateen.pilot.model.values_telemetry import Telemetry

__all__ = ["CLIENT", "SERVER", "Side", "Telemetries"]

Side = Literal["CLIENT", "SERVER"]
CLIENT: Final[Side] = "CLIENT"  # what sidecars send, and gateways
SERVER: Final[Side] = "SERVER"  # what sidecars receive


class Telemetries:
    """The derived collections of what is reported."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        graph = mesh.graph
        # name in lower case -> api ExtensionProvider | None
        self.provider = graph.derive("telemetry providers", self._provider)
        # (view, side) -> Telemetry
        self._telemetry = graph.derive("telemetry", self._telemetry_of)

    def of(self, read: Read, view: View, side: Side) -> Telemetry:
        """Return what proxies of `view` report of one side."""
        found: Telemetry = read.get(self._telemetry, (view, side))
        return found

    def levels(self, read: Read, view: View) -> tuple[ResourceKey, ...]:
        """Return the Telemetries in force, from the broadest to the narrowest.

        The oldest of the root namespace, the oldest of the view's own, then those that chose its proxies.
        """
        broad: dict[str, ResourceKey] = {}
        for key in self._mesh.telemetries.keys(read, kind=view.kind, namespace=view.namespace, labels=()):
            if not self._mesh.telemetries.is_choosy(read, key):
                broad.setdefault(key.namespace, key)
        return (*broad.values(), *view.telemetry)

    def reach(self, read: Read, view: View) -> Reach:
        """Return how proxies of `view` find providers and reach them."""
        return Reach(self._mesh, read, view, lambda name: read.get(self.provider, name.lower()))

    def _telemetry_of(self, read: Read, key: tuple[View, Side]) -> Telemetry:
        view, side = key
        settings: MeshSettings = read.get(self._mesh.settings, "mesh")
        specs = [obj.spec for obj in self._mesh.objects_of(read, self.levels(read, view))]
        reach = self.reach(read, view)
        return Telemetry(
            metrics=merge_metrics([spec.metrics for spec in specs], side, settings.default_metrics, reach),
            access_logs=merge_logs([spec.access_logging for spec in specs], side, settings, reach),
            listener_logs=settings.listener_logs,
            tracing=merge_tracing([spec.tracing for spec in specs], side, settings, reach),
        )

    def _provider(self, read: Read, name: str) -> ExtensionProvider | None:
        objects = self._mesh.objects_of(read, read.lookup(self._mesh.by_kind, "MeshConfig"))
        config: Object | None = min(objects, key=age_key) if objects else None
        written: Any = find_provider(config.spec, name) if config is not None else None
        if written is not None:
            return written  # type: ignore[no-any-return]
        return next((provider for provider in BUILT_IN_PROVIDERS if provider.name == name), None)
