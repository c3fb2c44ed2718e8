"""Whether and how one side reports spans: the `tracing` of Telemetries, merged; else the mesh's `defaultConfig`.

In:  entries of each Telemetry in force, from the broadest to the narrowest. Out: `Tracing`, or None for no traces.
Rules: Istio's Telemetry, docs/api/Telemetry.md "Tracing".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final

from lateen.api.providers import ExtensionProvider
from lateen.pilot.model.mesh import MeshSettings
from lateen.pilot.model.telemetry_providers import Reach, header_values
from lateen.pilot.model.values_telemetry import (
    Datadog,
    OpenTelemetry,
    SkyWalking,
    TraceTag,
    Tracing,
    Zipkin,
)

__all__ = ["merge_tracing"]

Tracer = Zipkin | OpenTelemetry | Datadog | SkyWalking
SAMPLED: Final = 1.0  # percent
HTTP_TIMEOUT: Final = timedelta(seconds=3)
FIELDS: Final = (
    "random_sampling_percentage",
    "disable_span_reporting",
    "use_request_id_for_trace_sampling",
    "enable_istio_tags",
    "disable_context_propagation",
)


def merge_tracing(levels: Sequence[Sequence[Any]], side: str, settings: MeshSettings, reach: Reach) -> Tracing | None:
    """Return how one side is traced."""
    own = settings.proxy.tracing if settings.proxy is not None else None
    written = [entry for level in levels for entry in level]
    name = next(iter(settings.default_tracing), "")
    said: dict[str, Any] = {}
    tags: Any = ()
    for entry in written:
        if entry.match is not None and entry.match.mode not in ("CLIENT_AND_SERVER", side):
            continue
        if entry.providers:
            name = entry.providers[0].name
        said |= {field: value for field in FIELDS if (value := getattr(entry, field)) is not None}
        tags = entry.custom_tags or tags
    if said.get("disable_span_reporting"):
        return None
    longest = own.max_path_tag_length if own is not None else None
    tracer: Tracer | None
    if not written and not settings.default_tracing:
        tracer = _older(own, reach) if settings.trace_by_default and own is not None else None
    else:
        provider = reach.find(name) if name else None
        tracer = _tracer(provider, reach) if provider is not None else None
        longest = _longest_tag(provider) or longest
    if tracer is None:
        return None
    istio_tags = said.get("enable_istio_tags", own.enable_istio_tags if own is not None else None)
    return Tracing(
        tracer=tracer,
        percent=said.get("random_sampling_percentage", _sampling(own)),
        tags=_tags(tags or (own.custom_tags if own is not None else ())),
        istio_tags=istio_tags is not False,
        max_path_length=longest,
        propagate=not said.get("disable_context_propagation", False),
        decide_by_request_id=said.get("use_request_id_for_trace_sampling", True),
    )


def _sampling(own: Any) -> float:
    percent = own.sampling if own is not None else None
    return float(percent) if percent and 0 < percent <= 100 else SAMPLED


def _tags(written: Any) -> tuple[TraceTag, ...]:
    return tuple(tag for name in sorted(written) if (tag := _tag(name, written[name])) is not None) if written else ()


def _tag(name: str, tag: Any) -> TraceTag | None:
    if tag.literal is not None:
        return TraceTag(name=name, kind="literal", source=tag.literal.value)
    for kind in ("environment", "header"):
        body = getattr(tag, kind)
        if body is not None:
            return TraceTag(name=name, kind=kind, source=body.name, default=body.default_value or "")
    formatter = getattr(tag, "formatter", None)
    return TraceTag(name=name, kind="formatter", source=formatter.value) if formatter is not None else None


def _older(own: Any, reach: Reach) -> Tracer | None:
    """Return the tracer of `defaultConfig.tracing`, at a service of the mesh."""
    for kind, made in (("zipkin", Zipkin), ("datadog", Datadog)):
        body = getattr(own, kind)
        if body is not None and body.address:
            host, _, port = body.address.rpartition(":")
            if not port.isdecimal():
                return None
            collector = reach.collector(SimpleNamespace(service=host, port=int(port)))
            return made(collector=collector) if collector is not None else None
    return None


def _longest_tag(provider: ExtensionProvider | None) -> int | None:
    for kind in ("zipkin", "opentelemetry", "datadog"):
        body = getattr(provider, kind, None)
        if body is not None:
            return body.max_tag_length or None
    return None


def _tracer(provider: ExtensionProvider, reach: Reach) -> Tracer | None:
    body = provider.zipkin or provider.opentelemetry or provider.datadog or provider.skywalking
    collector = reach.collector(body) if body is not None else None
    if body is None or collector is None:
        return None
    if provider.zipkin is not None:
        zipkin = provider.zipkin
        return Zipkin(
            collector=collector,
            path=zipkin.path or "/api/v2/spans",
            short_ids=bool(zipkin.enable64bit_trace_id),
            w3c=zipkin.trace_context_option == "USE_B3_WITH_W3C_PROPAGATION",
            headers=header_values(zipkin.headers),
            timeout=zipkin.timeout or timedelta(seconds=5),
        )
    if provider.opentelemetry is not None:
        return _opentelemetry(provider.opentelemetry, collector)
    if provider.datadog is not None:
        return Datadog(collector=collector)
    assert provider.skywalking is not None
    return SkyWalking(collector=collector, token=provider.skywalking.access_token or "")


def _opentelemetry(body: Any, collector: Any) -> OpenTelemetry:
    if body.http is not None:
        return OpenTelemetry(
            collector=collector,
            port=int(body.port),
            path=body.http.path,
            timeout=body.http.timeout or HTTP_TIMEOUT,
            headers=header_values(body.http.headers),
        )
    grpc = body.grpc
    return OpenTelemetry(
        collector=collector,
        port=int(body.port),
        timeout=(grpc and grpc.timeout) or timedelta(0),
        headers=header_values(grpc.initial_metadata) if grpc is not None else (),
    )
