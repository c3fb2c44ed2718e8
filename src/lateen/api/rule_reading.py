"""What a Rule looks at: which attributes, and whether that is known of connections. Pure.

In:  a Rule that is checked. Out: a `RuleReading`. Pilot tells Envoys by it what to send, Mixer when a rule applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lateen.api.base import Object
from lateen.api.mixer import Rule, RuleQuota
from lateen.expr import Expression, Phase, Read, compile_expression

__all__ = ["RuleReading", "asked_of", "compiled", "gateway_of", "keys_of", "read_rule", "told_of"]

# Attributes of one request, which a connection of bytes has none of.
_OF_REQUESTS: Final = ("request.", "response.", "api.operation")
TOKEN: Final = frozenset({Read("request.auth.claims")})
compiled = lru_cache(maxsize=8192)(compile_expression)


@dataclass(frozen=True, slots=True)
class RuleReading:
    """`checks`: what match, checks and quota read; `reports`: match and reports. None: there is no such part."""

    checks: frozenset[Read] | None
    reports: frozenset[Read] | None
    decides_connections: bool  # what decisions read is known before anything of a connection is read
    reports_connections: bool


def read_rule(rule: Rule) -> RuleReading:
    """Return what a rule looks at. Raises: ExpressionError for what `check_mixer` refuses."""
    match = [compiled(rule.match)] if rule.match else []
    deciding = rule.check is not None or rule.quota is not None
    checks = [*match, *map(compiled, _decisions(rule))]
    reports = [*match, *map(compiled, _reports(rule))]
    told = _reads(reports) if rule.report is not None else None
    # What others decide may be remembered: then it is by whose token it is.
    whose = TOKEN if any(True for _ in asked_of(rule)) else frozenset()
    return RuleReading(
        checks=_reads(checks) | whose if deciding else None,
        reports=told,
        decides_connections=deciding and all(expression.phase is Phase.CONNECTION for expression in checks),
        reports_connections=told is not None and not any(read.attribute.startswith(_OF_REQUESTS) for read in told),
    )


def gateway_of(obj: Object) -> str:
    """Return "<namespace>/<name>" of the Gateway that a rule is for, "" for one that is for workloads."""
    name: str = obj.spec.gateway
    return name if not name or "/" in name else f"{obj.key.namespace}/{name}"


def keys_of(quota: RuleQuota) -> tuple[str, ...]:
    """Return what counts are kept by: CEL."""
    return (*quota.by, *_PROXY) if quota.each == "proxy" else quota.by


# As Envoy does it: for each port, and for clients with and without mutual TLS apart.
_PROXY: Final = ("context.reporter.uid", "destination.port", "connection.mtls")


def asked_of(rule: Rule) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the adapters that decide beside Mixer itself, each with what it is told: name -> CEL."""
    if rule.check is not None and rule.check.webhook is not None:
        yield "webhook", rule.check.webhook.fields
    if rule.check is not None and rule.check.opa is not None:
        yield "opa", rule.check.opa.input
    if rule.check is not None and rule.check.adapter is not None:
        yield "adapter", rule.check.adapter.values


def told_of(rule: Rule) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the adapters that are told of what is over, each with what it is told: name -> CEL.

    Names that begin with a zero byte nobody wrote: they are what the form of the report needs.
    """
    report = rule.report
    if report is None:
        return
    if report.adapter is not None:
        yield "adapter", report.adapter.values
    if report.otel_log is not None:
        yield "otelLog", {**report.otel_log.fields, **_REPORTER, **_written("body", report.otel_log.body)}
    if report.otel_span is not None:
        yield "otelSpan", {**report.otel_span.attributes, **_SPAN, **_written("name", report.otel_span.name)}
    if report.zipkin is not None:
        yield "zipkin", {**report.zipkin.tags, **_SPAN, **_written("name", report.zipkin.name)}
    if report.event is not None:
        yield "event", report.event.fields


def _written(name: str, text: str) -> Mapping[str, str]:
    return {f"\0{name}": text} if text else {}


# One expression for all headers that name a trace: each more would cost each report its own evaluation.
_TRACE: Final = """
has(request.headers.traceparent) ? "w3c " + request.headers.traceparent
: has(request.headers.b3) ? "b3 " + request.headers.b3
: "x-b3-traceid" in request.headers && "x-b3-spanid" in request.headers
? "b3 " + request.headers["x-b3-traceid"] + "-" + request.headers["x-b3-spanid"]
  + ("x-b3-sampled" in request.headers ? "-" + request.headers["x-b3-sampled"] : "")
: "x-b3-sampled" in request.headers ? "b3 " + request.headers["x-b3-sampled"] : ""
"""
_REPORTER: Final = {"\0reporter": "context.reporter.uid"}
_SPAN: Final = {
    **_REPORTER,
    "\0start": "request.time",
    "\0duration": "response.duration",
    "\0code": "response.code",
    "\0trace": _TRACE,
}


def _decisions(rule: Rule) -> Iterator[str]:
    if rule.check is not None and rule.check.headers is not None:
        for changes in (rule.check.headers.request, rule.check.headers.response):
            if changes is not None:
                yield from changes.set.values()
    if rule.check is not None and rule.check.list is not None:
        yield rule.check.list.value
    for _, values in asked_of(rule):
        yield from values.values()
    if rule.quota is not None:
        yield from keys_of(rule.quota)
        if rule.quota.amount:
            yield rule.quota.amount


def _reports(rule: Rule) -> Iterator[str]:
    if rule.report is None:
        return
    if rule.report.log is not None:
        yield from rule.report.log.fields.values()
    if rule.report.metric is not None:
        yield from rule.report.metric.labels.values()
        if rule.report.metric.value:
            yield rule.report.metric.value
    for _, values in told_of(rule):
        yield from values.values()


def _reads(expressions: list[Expression]) -> frozenset[Read]:
    return frozenset(read for expression in expressions for read in expression.reads)
