"""telemetry.istio.io: Telemetry, as written.

Shapes only; rules beyond them are in `lateen.api.check_telemetry`. Meaning and defaults: docs/api.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Duration, Mapping
from lateen.api.selectors import PolicyTargetReference, WorkloadSelector

__all__ = [
    "AccessLogging",
    "AccessLoggingFilter",
    "CustomTag",
    "EnvironmentTag",
    "FormatterTag",
    "LiteralTag",
    "LogSelector",
    "MetricSelector",
    "Metrics",
    "MetricsOverride",
    "ProviderRef",
    "RequestHeaderTag",
    "TagOverride",
    "Telemetry",
    "Tracing",
    "TracingSelector",
]

WorkloadMode = Literal["CLIENT_AND_SERVER", "CLIENT", "SERVER"]
Metric = Literal[
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
]


class ProviderRef(Spec, frozen=True, kw_only=True):
    """Names an entry of `MeshConfig.extensionProviders`, in any case."""

    name: str


class LiteralTag(Spec, frozen=True, kw_only=True):
    value: str


class EnvironmentTag(Spec, frozen=True, kw_only=True):
    """A variable of the proxy's environment."""

    name: str
    default_value: str = ""


class RequestHeaderTag(Spec, frozen=True, kw_only=True):
    name: str
    default_value: str = ""


class FormatterTag(Spec, frozen=True, kw_only=True):
    value: str  # access log format, "%REQUESTED_SERVER_NAME%"


class CustomTag(Spec, frozen=True, kw_only=True):
    """A span's tag; at most one of the four."""

    ONE_OF: ClassVar[OneOf] = (("literal", "environment", "header", "formatter"),)

    literal: LiteralTag | None = None
    environment: EnvironmentTag | None = None
    header: RequestHeaderTag | None = None
    formatter: FormatterTag | None = None


class TracingSelector(Spec, frozen=True, kw_only=True):
    mode: WorkloadMode = "CLIENT_AND_SERVER"


class Tracing(Spec, frozen=True, kw_only=True):
    """`None` inherits from the level above."""

    match: TracingSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    random_sampling_percentage: float | None = None  # 0..100
    disable_span_reporting: bool | None = None
    custom_tags: Mapping[str, CustomTag] = EMPTY
    use_request_id_for_trace_sampling: bool | None = None
    enable_istio_tags: bool | None = None
    disable_context_propagation: bool | None = None


class MetricSelector(Spec, frozen=True, kw_only=True):
    """Which metric, of which side; `metric` and `custom_metric` exclude each other, neither is all of them."""

    ONE_OF: ClassVar[OneOf] = (("metric", "custom_metric"),)

    metric: Metric | None = None
    custom_metric: str | None = None
    mode: WorkloadMode = "CLIENT_AND_SERVER"


class TagOverride(Spec, frozen=True, kw_only=True):
    operation: Literal["UPSERT", "REMOVE"] | None = None  # UPSERT
    value: str | None = None  # CEL over Envoy's attributes


class MetricsOverride(Spec, frozen=True, kw_only=True):
    match: MetricSelector | None = None
    disabled: bool | None = None
    tag_overrides: Mapping[str, TagOverride] = EMPTY


class Metrics(Spec, frozen=True, kw_only=True):
    providers: tuple[ProviderRef, ...] = ()
    overrides: tuple[MetricsOverride, ...] = ()
    reporting_interval: Duration | None = None  # 5s; TCP metrics


class LogSelector(Spec, frozen=True, kw_only=True):
    mode: WorkloadMode = "CLIENT_AND_SERVER"


class AccessLoggingFilter(Spec, frozen=True, kw_only=True):
    expression: str = ""  # CEL over Envoy's attributes; logged only if true


class AccessLogging(Spec, frozen=True, kw_only=True):
    match: LogSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    disabled: bool | None = None
    filter: AccessLoggingFilter | None = None


class Telemetry(Spec, frozen=True, kw_only=True):
    """What proxies report of traffic, and to whom."""

    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None  # used only if target_refs is empty
    target_refs: tuple[PolicyTargetReference, ...] = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()
