"""What a Rule must satisfy beyond its shape: expressions with their types, names, and that it does anything at all.

In: a decoded `Object`. Out: its faults, in the order of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_selector
from lateen.api.mixer import (
    AdapterUse,
    HeaderChanges,
    ListCheck,
    LogReport,
    MetricReport,
    Rule,
    RuleCheck,
    RuleQuota,
    RuleReport,
)
from lateen.api.places import join_path
from lateen.api.suggest import seen
from lateen.expr import ExpressionError, Phase, Type, compile_expression

__all__ = ["ENVOYS_STATUSES", "check_rule", "may_be_written"]

_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_DNS_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_ADAPTER: Final = re.compile(r"[a-z][a-z0-9-]{0,62}\Z")
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
# What makes a request what it is, and what only Envoy says.
_KEPT_HEADERS: Final = re.compile(r":|host\Z|x-envoy-|x-lateen-|x-forwarded-client-cert\Z", re.IGNORECASE)
# envoy.type.v3.StatusCode
ENVOYS_STATUSES: Final = frozenset(
    {*range(300, 306), 307, 308, *range(400, 418), *range(421, 425), 426, 428, 429, 431, *range(500, 509), 510, 511}
)
MOST_FIELDS: Final = 64
MOST_KEYS: Final = 8
SHORTEST_TIMEOUT_MS, LONGEST_TIMEOUT_MS = 1, 60_000


def check_rule(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a Rule."""
    rule: Rule = obj.spec
    yield from check_selector(obj, rule.selector, "spec.selector")
    if rule.gateway:
        namespace, _, name = rule.gateway.rpartition("/")
        if not all(_DNS_NAME.match(part) for part in (namespace or name, name)):
            message = f"must be the name of a Gateway, or NAMESPACE/NAME, got {seen(rule.gateway)}"
            yield obj.problem("spec.gateway", message)
        if rule.selector is not None:
            yield obj.problem("spec.gateway", "selector and gateway exclude each other")
    if rule.match:
        # A report is told of what is over, so its condition may ask how it ended.
        deciding = rule.check is not None or rule.quota is not None
        yield from _expression(obj, rule.match, "spec.match", Type.BOOL, Phase.REQUEST if deciding else Phase.END)
    if rule.check is None and rule.quota is None and rule.report is None:
        yield obj.problem("spec", "does nothing: wanted is at least one of check, quota, report")
    if rule.check is not None:
        yield from _check(obj, rule.check, "spec.check")
    if rule.quota is not None:
        yield from _quota(obj, rule.quota, "spec.quota")
    if rule.report is not None:
        yield from _something(obj, rule.report, "spec.report")
        yield from _sinks(obj, rule.report)
        if rule.report.adapter is not None:
            yield from _own(obj, rule.report.adapter, "spec.report.adapter", Phase.END)
        if rule.report.log is not None:
            yield from _log(obj, rule.report.log, "spec.report.log")
        if rule.report.metric is not None:
            yield from _metric(obj, rule.report.metric, "spec.report.metric")
    milliseconds = rule.timeout.total_seconds() * 1000
    if not SHORTEST_TIMEOUT_MS <= milliseconds <= LONGEST_TIMEOUT_MS:
        yield obj.problem("spec.timeout", f"must be between 1ms and 60s, got {milliseconds:g}ms")


def _expression(obj: Object, text: str, place: str, want: Type | None, phase: Phase) -> Iterator[Problem]:
    try:
        compile_expression(text, want=want, phase=phase)
    except ExpressionError as error:
        where = f" at {error.line}:{error.column} of it" if (error.line, error.column) != (1, 1) else ""
        yield obj.problem(place, f"{error.message}{where}, in {seen(text)}")


def _check(obj: Object, check: RuleCheck, place: str) -> Iterator[Problem]:
    yield from _something(obj, check, place)
    if check.deny is not None and check.allow is not None:
        yield obj.problem(place, "deny and allow exclude each other")
    for part in ("deny", "list"):
        decided = getattr(check, part)
        if decided is not None:
            yield from _status(obj, decided.status, f"{place}.{part}.status")
    if check.deny is not None:
        for name in check.deny.headers:
            yield from _header(obj, name, join_path(f"{place}.deny.headers", name))
    if check.headers is not None:
        for side in ("request", "response"):
            changes: HeaderChanges | None = getattr(check.headers, side)
            if changes is not None:
                yield from _changes(obj, changes, f"{place}.headers.{side}")
    if check.list is not None:
        yield from _list(obj, check.list, f"{place}.list")
    if check.webhook is not None:
        yield from _url(obj, check.webhook.url, f"{place}.webhook.url")
        yield from _fields(obj, check.webhook.fields, f"{place}.webhook.fields", Phase.REQUEST)
    if check.opa is not None:
        yield from _url(obj, check.opa.url, f"{place}.opa.url")
        yield from _fields(obj, check.opa.input, f"{place}.opa.input", Phase.REQUEST)
    if check.adapter is not None:
        yield from _own(obj, check.adapter, f"{place}.adapter", Phase.REQUEST)


def _something(obj: Object, parts: RuleCheck | RuleReport, place: str) -> Iterator[Problem]:
    if not any(getattr(parts, name) for name in parts.__struct_fields__):
        names = ", ".join(parts.__struct_encode_fields__)
        yield obj.problem(place, f"does nothing: wanted is at least one of {names}")


def _sinks(obj: Object, report: RuleReport) -> Iterator[Problem]:
    """Yield what is wrong with reports that go to other servers."""
    sinks: tuple[tuple[str, Any, str], ...] = (
        ("otelLog", report.otel_log, "fields"),
        ("otelSpan", report.otel_span, "attributes"),
        ("zipkin", report.zipkin, "tags"),
        ("event", report.event, "fields"),
    )
    for name, sink, fields in sinks:
        if sink is None:
            continue
        place = f"spec.report.{name}"
        yield from _url(obj, sink.url, f"{place}.url")
        yield from _fields(obj, getattr(sink, fields), f"{place}.{fields}", Phase.END)
        for part, want in (("body", None), ("name", Type.STRING)):
            if getattr(sink, part, ""):
                yield from _expression(obj, getattr(sink, part), f"{place}.{part}", want, Phase.END)


def _own(obj: Object, use: AdapterUse, place: str, phase: Phase) -> Iterator[Problem]:
    if not _ADAPTER.match(use.name):
        message = f"must be the name of an adapter, small letters, digits and dashes, got {seen(use.name)}"
        yield obj.problem(f"{place}.name", message)
    yield from _fields(obj, use.values, f"{place}.values", phase)


def _url(obj: Object, url: str, place: str) -> Iterator[Problem]:
    """Yield what is wrong with a URL that Mixer is to ask. Whether it may is for the operator: `--allow-fetch`."""
    try:
        parts = urlsplit(url)
        fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fit = False
    if not fit or not url.isprintable() or " " in url:
        yield obj.problem(place, f"must be http://host[:port]/path or https://..., got {seen(url)}")
    elif parts.username is not None or parts.password is not None:
        yield obj.problem(place, f"must hold no credentials, which are not sent; it is of {parts.hostname}")


def _fields(obj: Object, fields: Mapping[str, str], place: str, phase: Phase) -> Iterator[Problem]:
    """Yield what is wrong with values that are told by name."""
    if len(fields) > MOST_FIELDS:
        yield obj.problem(place, f"at most {MOST_FIELDS} are allowed, got {len(fields)}")
    for name, text in fields.items():
        if not name or not name.isprintable():
            yield obj.problem(place, f"a name must be a text of printable characters, got {seen(name)}")
        yield from _expression(obj, text, join_path(place, name), None, phase)


def _status(obj: Object, status: int, place: str) -> Iterator[Problem]:
    if status not in ENVOYS_STATUSES:
        yield obj.problem(place, f"must be a status that Envoy knows, got {status}")


def _changes(obj: Object, changes: HeaderChanges, place: str) -> Iterator[Problem]:
    for name, text in changes.set.items():
        yield from _header(obj, name, join_path(f"{place}.set", name))
        yield from _expression(obj, text, join_path(f"{place}.set", name), Type.STRING, Phase.REQUEST)
    for i, name in enumerate(changes.remove):
        yield from _header(obj, name, f"{place}.remove[{i}]")


def may_be_written(name: str) -> bool:
    """Tell whether rules may write a header of this name."""
    return _HEADER.match(name) is not None and _KEPT_HEADERS.match(name) is None


def _header(obj: Object, name: str, place: str) -> Iterator[Problem]:
    if not _HEADER.match(name):
        yield obj.problem(place, f"must be the name of a header, got {seen(name)}")
    elif _KEPT_HEADERS.match(name):
        yield obj.problem(place, f"is a header that no rule may change, got {seen(name)}")


def _list(obj: Object, check: ListCheck, place: str) -> Iterator[Problem]:
    yield from _expression(obj, check.value, f"{place}.value", Type.STRING, Phase.REQUEST)
    if not check.values and not check.file and not check.url:
        yield obj.problem(place, "needs values, a file or a url")
    if check.url:
        yield from _url(obj, check.url, f"{place}.url")
    if check.refresh.total_seconds() < 1:
        seconds = check.refresh.total_seconds()
        yield obj.problem(f"{place}.refresh", f"must be at least 1s, got {seconds:g}s")
    if check.file and not _FILE.match(check.file):
        yield obj.problem(f"{place}.file", f"must be the name of a file beside the rule's own, got {seen(check.file)}")
    from lateen.expr.lists import ListError, build_list

    try:
        build_list(check.type, check.values)
    except ListError as error:
        yield obj.problem(f"{place}.values[{error.position}]", str(error))


def _quota(obj: Object, quota: RuleQuota, place: str) -> Iterator[Problem]:
    yield from _status(obj, quota.status, f"{place}.status")
    if quota.each == "proxy" and (quota.shared or quota.algorithm != "FIXED"):
        wrong = "shared" if quota.shared else "algorithm"
        yield obj.problem(f"{place}.{wrong}", "a proxy's own limit is not shared, and is a bucket that fills evenly")
    if len(quota.by) > MOST_KEYS:
        yield obj.problem(f"{place}.by", f"at most {MOST_KEYS} are allowed, got {len(quota.by)}")
    for i, text in enumerate(quota.by):
        yield from _expression(obj, text, f"{place}.by[{i}]", None, Phase.REQUEST)
    if quota.amount:
        yield from _expression(obj, quota.amount, f"{place}.amount", Type.INT, Phase.REQUEST)


def _log(obj: Object, log: LogReport, place: str) -> Iterator[Problem]:
    if log.file and not _FILE.match(log.file):
        message = f"must be a name without folders, for the folder of Mixer's logs, got {seen(log.file)}"
        yield obj.problem(f"{place}.file", message)
    if not log.fields:
        yield obj.problem(f"{place}.fields", "must not be empty")
    yield from _fields(obj, log.fields, f"{place}.fields", Phase.END)


def _metric(obj: Object, metric: MetricReport, place: str) -> Iterator[Problem]:
    if not _METRIC.match(metric.name):
        yield obj.problem(f"{place}.name", f"must be the name of a metric, got {seen(metric.name)}")
    if metric.value:
        yield from _number(obj, metric.value, f"{place}.value")
    if len(metric.labels) > MOST_FIELDS:
        yield obj.problem(f"{place}.labels", f"at most {MOST_FIELDS} are allowed, got {len(metric.labels)}")
    for name, text in metric.labels.items():
        if not _LABEL.match(name) or name == "le":
            yield obj.problem(join_path(f"{place}.labels", name), f"must be the name of a label, got {seen(name)}")
        yield from _expression(obj, text, join_path(f"{place}.labels", name), None, Phase.END)
    if metric.buckets and metric.kind != "HISTOGRAM":
        yield obj.problem(f"{place}.buckets", f"a {metric.kind} has none")
    if any(low >= high for low, high in zip(metric.buckets, metric.buckets[1:], strict=False)):
        yield obj.problem(f"{place}.buckets", "must rise")


def _number(obj: Object, text: str, place: str) -> Iterator[Problem]:
    faults = [list(_expression(obj, text, place, want, Phase.END)) for want in (Type.INT, Type.DOUBLE, Type.DURATION)]
    if all(faults):
        yield faults[0][0]
