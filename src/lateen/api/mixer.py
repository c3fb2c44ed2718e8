"""mixer.lateen.io: Rule, as written. Shapes only; rules beyond them are in `lateen.api.check_mixer`.

A field that says CEL is an expression over the attributes of docs/mixer/attributes.md; everything else is taken as it
is. Meaning and defaults: docs/api/Rule.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from msgspec import Meta

from lateen.api.base import EMPTY, Spec
from lateen.api.scalars import Duration, Mapping
from lateen.api.selectors import WorkloadSelector

__all__ = [
    "AdapterUse",
    "AllowCheck",
    "DenyCheck",
    "EventReport",
    "HeaderChanges",
    "HeadersCheck",
    "ListCheck",
    "LogReport",
    "MetricReport",
    "OpaCheck",
    "OtelLogReport",
    "OtelSpanReport",
    "Rule",
    "RuleCheck",
    "RuleQuota",
    "RuleReport",
    "WebhookCheck",
    "ZipkinReport",
]

Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Status = Annotated[int, Meta(ge=300, le=599)]


class DenyCheck(Spec, frozen=True, kw_only=True):
    """Refuse what matches."""

    status: Status = 403
    body: str = ""
    headers: Mapping[str, str] = EMPTY  # of the answer


class AllowCheck(Spec, frozen=True, kw_only=True):
    """Where any rule allows, what none of them matches is refused."""


class HeaderChanges(Spec, frozen=True, kw_only=True):
    set: Mapping[str, str] = EMPTY  # name -> CEL
    remove: tuple[str, ...] = ()


class HeadersCheck(Spec, frozen=True, kw_only=True):
    """Change what goes on to the service, and what comes back."""

    request: HeaderChanges | None = None
    response: HeaderChanges | None = None


class ListCheck(Spec, frozen=True, kw_only=True):
    """Look a value up in a list: `values` and the lines of `file` and of what `url` holds, together."""

    value: str  # CEL, a text
    values: tuple[str, ...] = ()
    file: str = ""  # beside the rule's own file
    url: str = ""
    refresh: Duration = timedelta(seconds=60)  # of what `url` holds
    type: Literal["STRINGS", "CASE_INSENSITIVE_STRINGS", "REGEX", "IP_ADDRESSES"] = "STRINGS"
    deny: Literal["ABSENT", "PRESENT"] = "ABSENT"  # ABSENT: who is not in the list is refused
    status: Status = 403
    body: str = ""


class WebhookCheck(Spec, frozen=True, kw_only=True):
    """Ask another server: POST of a JSON object."""

    url: str
    fields: Mapping[str, str] = EMPTY  # name -> CEL


class OpaCheck(Spec, frozen=True, kw_only=True):
    """Ask a server that decides as OPA does: POST of `{"input": ...}`, answered by `{"result": ...}`."""

    url: str
    input: Mapping[str, str] = EMPTY  # name -> CEL


class AdapterUse(Spec, frozen=True, kw_only=True):
    """An adapter of one's own: a Python function, by the name that it has there."""

    name: str
    params: Mapping[str, Any] = EMPTY  # as the function's own type wants them
    values: Mapping[str, str] = EMPTY  # name -> CEL: what it is told


class RuleCheck(Spec, frozen=True, kw_only=True):
    """What is decided of a request or a connection that matches; several at once."""

    deny: DenyCheck | None = None
    allow: AllowCheck | None = None
    headers: HeadersCheck | None = None
    list: ListCheck | None = None
    webhook: WebhookCheck | None = None
    opa: OpaCheck | None = None
    adapter: AdapterUse | None = None


class RuleQuota(Spec, frozen=True, kw_only=True):
    """How much passes in a while."""

    limit: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    per: Duration
    by: tuple[str, ...] = ()  # CEL: each combination of values has a limit of its own
    amount: str = ""  # CEL, a number; 1
    algorithm: Literal["FIXED", "ROLLING"] = "FIXED"
    each: Literal["mesh", "proxy"] = "mesh"  # whose limit it is; a proxy's own is a bucket that fills evenly
    shared: bool = False  # in Redis, by all Mixers that have the same one
    status: Status = 429
    body: str = ""


class LogReport(Spec, frozen=True, kw_only=True):
    """A line of JSON."""

    file: str = ""  # a name in the folder of logs; "": standard output
    severity: Severity = "INFO"
    fields: Mapping[str, str] = EMPTY  # name -> CEL


class MetricReport(Spec, frozen=True, kw_only=True):
    """One of Mixer's metrics, as Prometheus reads them."""

    name: str
    kind: Literal["COUNTER", "GAUGE", "HISTOGRAM"] = "COUNTER"
    value: str = ""  # CEL, a number; 1
    labels: Mapping[str, str] = EMPTY  # name -> CEL
    buckets: tuple[float, ...] = ()  # of a histogram, rising


class OtelLogReport(Spec, frozen=True, kw_only=True):
    """A record of OpenTelemetry's logs, over OTLP/HTTP."""

    url: str  # the whole of it, as http://host:4318/v1/logs
    severity: Severity = "INFO"
    body: str = ""  # CEL; the rule's name
    fields: Mapping[str, str] = EMPTY  # name -> CEL


class OtelSpanReport(Spec, frozen=True, kw_only=True):
    """A span of OpenTelemetry's, over OTLP/HTTP, in the trace that the request's headers name."""

    url: str  # the whole of it, as http://host:4318/v1/traces
    name: str = ""  # CEL, a text; the rule's name
    attributes: Mapping[str, str] = EMPTY  # name -> CEL


class ZipkinReport(Spec, frozen=True, kw_only=True):
    """A span of Zipkin's, in the same trace."""

    url: str  # the whole of it, as http://host:9411/api/v2/spans
    name: str = ""  # CEL, a text; the rule's name
    tags: Mapping[str, str] = EMPTY  # name -> CEL


class EventReport(Spec, frozen=True, kw_only=True):
    """An object of a JSON list that is sent by POST."""

    url: str
    fields: Mapping[str, str] = EMPTY  # name -> CEL


class RuleReport(Spec, frozen=True, kw_only=True):
    """What is told of a request or a connection that is over."""

    log: LogReport | None = None
    metric: MetricReport | None = None
    otel_log: OtelLogReport | None = None
    otel_span: OtelSpanReport | None = None
    zipkin: ZipkinReport | None = None
    event: EventReport | None = None
    adapter: AdapterUse | None = None


class Rule(Spec, frozen=True, kw_only=True):
    """Policy and telemetry by expressions."""

    selector: WorkloadSelector | None = None
    gateway: str = ""  # of an Istio Gateway, in the rule's namespace or as NAMESPACE/NAME: the Envoys that serve it
    match: str = ""  # CEL, a condition; "": always
    check: RuleCheck | None = None
    quota: RuleQuota | None = None
    report: RuleReport | None = None
    failure_policy: Literal["closed", "open"] = "closed"
    timeout: Duration = timedelta(milliseconds=100)
