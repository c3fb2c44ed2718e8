"""Which access logs one side writes: the `accessLogging` of Telemetries, merged; else MeshConfig's older settings.

In:  entries of each Telemetry in force, from the broadest to the narrowest. Out: `AccessLog`s, by provider.
Rules: Istio's Telemetry, docs/api/Telemetry.md "Access logs".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from lateen.api.providers import BUILT_IN_PROVIDERS, ExtensionProvider
from lateen.pilot.model.mesh import MeshSettings
from lateen.pilot.model.telemetry_metrics import is_expression
from lateen.pilot.model.telemetry_providers import Reach
from lateen.pilot.model.values_telemetry import AccessLog, Collector, FileLog, GrpcLog, OtelLog

__all__ = ["merge_logs"]

STDOUT = "/dev/stdout"


def merge_logs(
    levels: Sequence[Sequence[Any]], side: str, settings: MeshSettings, reach: Reach
) -> tuple[AccessLog, ...]:
    """Return the access logs of one side."""
    default = settings.default_access_logs
    mine = [[entry for entry in level if _is_for(entry, side)] for level in levels]
    entries = [entry for level in mine for entry in level]
    last = next((level for level in reversed(mine) if any(entry.providers for entry in level)), None)
    scope = [name for entry in last or () for name in _names(entry)] or list(default)
    off: set[str] = set()
    when: dict[str, str] = {}
    applies = default
    for entry in entries:
        named = _names(entry)
        applies = named or applies
        for name in applies:
            (off.add if entry.disabled else off.discard)(name.lower())
        if entry.filter is not None:
            when.update(dict.fromkeys((name.lower() for name in named), entry.filter.expression))
    if not scope:
        if any(entry.disabled for entry in entries) or not settings.access_log.path:
            return ()
        return (AccessLog(sink=settings.access_log),)
    found: list[AccessLog] = []
    for name in sorted(dict.fromkeys(scope)):
        provider = reach.find(name)
        if provider is None or name.lower() in off:
            continue
        expression = when.get(name.lower(), "")
        sink = _sink(provider, settings, reach)
        if sink is not None and (not expression or is_expression(expression)):
            found.append(AccessLog(sink=sink, when=expression))
    return tuple(found)


def _is_for(entry: Any, side: str) -> bool:
    return entry.match is None or entry.match.mode in ("CLIENT_AND_SERVER", side)


def _names(entry: Any) -> tuple[str, ...]:
    return tuple(provider.name for provider in entry.providers)


def _sink(provider: ExtensionProvider, settings: MeshSettings, reach: Reach) -> FileLog | GrpcLog | OtelLog | None:
    if provider.envoy_file_access_log is not None:
        if provider in BUILT_IN_PROVIDERS:
            return replace(settings.access_log, path=STDOUT)
        return _file(provider.envoy_file_access_log)
    body: Any = provider.envoy_http_als or provider.envoy_tcp_als or provider.envoy_otel_als
    collector = reach.collector(body) if body is not None else None
    if collector is None:
        return None
    if provider.envoy_otel_als is not None:
        return _otel(body, collector)
    if provider.envoy_tcp_als is not None:
        return GrpcLog(collector=collector, http=False, log_name=body.log_name or "tcp_envoy_accesslog")
    return GrpcLog(
        collector=collector,
        http=True,
        log_name=body.log_name or "http_envoy_accesslog",
        request_headers=body.additional_request_headers_to_log,
        response_headers=body.additional_response_headers_to_log,
        response_trailers=body.additional_response_trailers_to_log,
    )


def _otel(body: Any, collector: Collector) -> OtelLog:
    shape = body.log_format
    return OtelLog(
        collector=collector,
        log_name=body.log_name or "otel_envoy_accesslog",
        body=(shape.text or "") if shape is not None else "",
        attributes=_json(shape.labels) if shape is not None and shape.labels else "",
    )


def _file(body: Any) -> FileLog:
    shape = body.log_format
    labels = shape.labels if shape is not None else None
    return FileLog(
        path=body.path or STDOUT,
        json=labels is not None,
        format=_json(labels) if labels else (shape.text or "" if shape is not None else ""),
        omit_empty=bool(body.omit_empty_values),
    )


def _json(labels: Any) -> str:
    return json.dumps(msgspec.to_builtins(labels, enc_hook=dict), sort_keys=True)
