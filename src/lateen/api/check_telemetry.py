"""What a Telemetry must satisfy beyond its shape.

In: a decoded `Object`. Out: its faults, in the order of the document. Rule ids (TE-..) are those of docs/api.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lateen.api.base import Object, Problem
from lateen.api.cel_syntax import CelSyntaxError, check_cel_syntax
from lateen.api.check_common import check_targets
from lateen.api.places import join_path
from lateen.api.suggest import seen
from lateen.api.telemetry import AccessLogging, CustomTag, Metrics, ProviderRef, TagOverride, Telemetry, Tracing

__all__ = ["check_telemetry"]


def check_telemetry(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a Telemetry."""
    telemetry: Telemetry = obj.spec
    yield from check_targets(obj)
    if len(telemetry.tracing) > 1:
        yield obj.problem("spec.tracing", "only one entry is useful; later ones override the first", "warning")
    for i, tracing in enumerate(telemetry.tracing):
        yield from _check_tracing(obj, tracing, f"spec.tracing[{i}]")
    for i, metrics in enumerate(telemetry.metrics):
        yield from _check_metrics(obj, metrics, f"spec.metrics[{i}]")
    for i, logging in enumerate(telemetry.access_logging):
        yield from _check_access_logging(obj, logging, f"spec.accessLogging[{i}]")


def _check_providers(obj: Object, providers: Iterable[ProviderRef], path: str) -> Iterator[Problem]:
    for i, provider in enumerate(providers):
        if not provider.name:
            yield obj.problem(f"{path}.providers[{i}].name", "must not be empty")


def _check_tracing(obj: Object, tracing: Tracing, path: str) -> Iterator[Problem]:
    yield from _check_providers(obj, tracing.providers, path)
    if len(tracing.providers) > 1:
        yield obj.problem(f"{path}.providers", "only the first provider is used", "warning")
    sampling = tracing.random_sampling_percentage
    if sampling is not None and not 0 <= sampling <= 100:
        yield obj.problem(f"{path}.randomSamplingPercentage", f"must be between 0 and 100, got {sampling:g}")
    for name, tag in tracing.custom_tags.items():
        place = join_path(f"{path}.customTags", name)
        if not name:
            yield obj.problem(f"{path}.customTags", "a tag's name must not be empty")
        yield from _check_tag(obj, tag, place)


def _check_tag(obj: Object, tag: CustomTag, path: str) -> Iterator[Problem]:
    kinds = (
        ("literal", "value", tag.literal and tag.literal.value),
        ("environment", "name", tag.environment and tag.environment.name),
        ("header", "name", tag.header and tag.header.name),
        ("formatter", "value", tag.formatter and tag.formatter.value),
    )
    for kind, field, value in kinds:
        if value == "":
            yield obj.problem(f"{path}.{kind}.{field}", "must not be empty")


def _check_metrics(obj: Object, metrics: Metrics, path: str) -> Iterator[Problem]:
    yield from _check_providers(obj, metrics.providers, path)
    for i, override in enumerate(metrics.overrides):
        place = f"{path}.overrides[{i}]"
        if override.match is not None and override.match.custom_metric == "":
            yield obj.problem(f"{place}.match.customMetric", "must not be empty")
        for name, tag in override.tag_overrides.items():
            if not name:
                yield obj.problem(f"{place}.tagOverrides", "a tag's name is empty", "warning")
            yield from _check_tag_override(obj, tag, join_path(f"{place}.tagOverrides", name))


def _check_tag_override(obj: Object, tag: TagOverride, path: str) -> Iterator[Problem]:
    if tag.operation == "REMOVE" and tag.value:
        yield obj.problem(f"{path}.value", f"operation REMOVE takes no value, got {seen(tag.value)}")
    if tag.operation != "REMOVE" and not tag.value:
        yield obj.problem(f"{path}.value", "operation UPSERT, the default, needs a value")


def _check_access_logging(obj: Object, logging: AccessLogging, path: str) -> Iterator[Problem]:
    yield from _check_providers(obj, logging.providers, path)
    if logging.filter is not None:
        try:
            check_cel_syntax(logging.filter.expression)
        except CelSyntaxError as err:
            yield obj.problem(f"{path}.filter.expression", f"must be a CEL expression: {err}")
