"""What people are told of a Telemetry that its own text does not show.

A provider that there is not, or that cannot be reached from its namespace; one that takes another kind of report; a
metric that nobody counts; an expression that Envoy could not read. Whatever is told here changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from lateen.api.base import Object, ResourceKey
from lateen.flow import Read
from lateen.pilot.model.attachment import GATEWAY_TARGET, targets_of
from lateen.pilot.model.findings import Finding
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.telemetries import Telemetries
from lateen.pilot.model.telemetry_metrics import is_expression, metrics_named

__all__ = ["TelemetryFindings"]

# part of a Telemetry -> the types of providers that take it
_TAKERS: Final = {
    "metrics": ("prometheus",),
    "accessLogging": ("envoy_file_access_log", "envoy_http_als", "envoy_tcp_als", "envoy_otel_als"),
    "tracing": ("zipkin", "opentelemetry", "datadog", "skywalking"),
}
_FAR: Final = (*_TAKERS["accessLogging"][1:], *_TAKERS["tracing"])  # services, which have to be reached


class TelemetryFindings:
    """The derived collection of findings of Telemetries."""

    def __init__(self, mesh: Mesh, telemetries: Telemetries) -> None:
        self._mesh = mesh
        self._telemetries = telemetries
        # Telemetry -> tuple[Finding, ...]
        self.found = mesh.graph.derive("telemetry findings", self._found)

    def _found(self, read: Read, key: ResourceKey) -> tuple[Finding, ...]:
        obj = read.get(self._mesh.objects, key)
        return tuple(self._findings(read, obj)) if obj is not None else ()

    def _findings(self, read: Read, obj: Object) -> Iterator[Finding]:
        spec = obj.spec
        yield from _targets(spec)
        for part, entries in (
            ("metrics", spec.metrics),
            ("accessLogging", spec.access_logging),
            ("tracing", spec.tracing),
        ):
            for i, entry in enumerate(entries):
                for j, provider in enumerate(entry.providers):
                    fault = self._fault(read, obj.key.namespace, part, provider.name)
                    if fault:
                        yield Finding(f"spec.{part}[{i}].providers[{j}].name", fault, "warning")
        for i, entry in enumerate(spec.metrics):
            yield from _overrides(entry.overrides, f"spec.metrics[{i}].overrides")

    def _fault(self, read: Read, namespace: str, part: str, name: str) -> str:
        provider = read.get(self._telemetries.provider, name.lower())
        if provider is None:
            return f"no extensionProvider of the mesh has the name {name!r}: it has no effect"
        kinds = [kind for kind in _TAKERS[part] if getattr(provider, kind) is not None]
        if not kinds:
            return f"{name!r} takes no {part}: it has no effect here"
        if kinds[0] not in _FAR:
            return ""
        body: Any = getattr(provider, kinds[0])
        reach = self._telemetries.reach(read, View(kind="sidecar", namespace=namespace))
        if reach.collector(body) is None:
            return (
                f"{name!r} is not reached: namespace {namespace} knows no service {body.service} with port {body.port}"
            )
        return ""


def _targets(spec: Any) -> Iterator[Finding]:
    for i, ref in enumerate(targets_of(spec)):
        if (ref.group, ref.kind) != GATEWAY_TARGET:
            field = f"spec.targetRefs[{i}]" if spec.target_refs else "spec.targetRef"
            message = f"is for nobody: there are no waypoints, so a target is a Gateway, got {ref.kind}"
            yield Finding(f"{field}.kind", message, "warning")


def _overrides(overrides: Iterable[Any], place: str) -> Iterator[Finding]:
    for i, override in enumerate(overrides):
        if not metrics_named(override.match):
            message = f"no metric has the name {override.match.custom_metric!r}"
            yield Finding(f"{place}[{i}].match.customMetric", message, "warning")
        for name, tag in override.tag_overrides.items():
            if tag.operation != "REMOVE" and tag.value and not is_expression(tag.value):
                message = f"is no CEL expression, so the label stays as it is, got {tag.value!r}"
                yield Finding(f"{place}[{i}].tagOverrides.{name}.value", message, "warning")
