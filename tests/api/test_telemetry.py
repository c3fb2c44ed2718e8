"""Telemetry: what is read, what is refused, and where."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.fakes.judging import faults, judge, read_spec, refusal

from lateen.api.cel_syntax import NESTING_LIMIT, CelSyntaxError, check_cel_syntax
from lateen.api.telemetry import CustomTag, EnvironmentTag, MetricSelector, TagOverride

TELEMETRY = """
selector: {matchLabels: {app: checkout}}
tracing:
- match: {mode: SERVER}
  providers: [{name: otel}]
  randomSamplingPercentage: 12.5
  disableSpanReporting: false
  useRequestIdForTraceSampling: true
  enableIstioTags: true
  disableContextPropagation: false
  customTags:
    stage: {literal: {value: canary}}
    node: {environment: {name: NODE_NAME, defaultValue: none}}
    tenant: {header: {name: x-tenant}}
    sni: {formatter: {value: "%REQUESTED_SERVER_NAME%"}}
metrics:
- providers: [{name: prometheus}]
  reportingInterval: 10s
  overrides:
  - match: {metric: ALL_METRICS, mode: CLIENT}
    disabled: true
  - match: {metric: REQUEST_COUNT, mode: SERVER}
    tagOverrides:
      verb: {operation: UPSERT, value: request.method}
      response_flags: {operation: REMOVE}
  - match: {customMetric: cart_items}
    disabled: false
accessLogging:
- match: {mode: SERVER}
  providers: [{name: envoy}]
  filter: {expression: "response.code >= 500 || connection.mtls == false"}
- match: {mode: CLIENT}
  providers: [{name: envoy}]
  disabled: true
"""


def test_a_telemetry_is_read_whole() -> None:
    assert judge("Telemetry", TELEMETRY) == []
    telemetry = read_spec("Telemetry", TELEMETRY)
    (tracing,) = telemetry.tracing
    assert tracing.random_sampling_percentage == 12.5
    assert tracing.custom_tags["node"] == CustomTag(environment=EnvironmentTag(name="NODE_NAME", default_value="none"))
    (metrics,) = telemetry.metrics
    assert metrics.reporting_interval == timedelta(seconds=10)
    assert metrics.overrides[0].match == MetricSelector(metric="ALL_METRICS", mode="CLIENT")
    assert metrics.overrides[1].tag_overrides["response_flags"] == TagOverride(operation="REMOVE")
    assert metrics.overrides[2].disabled is False
    assert [log.disabled for log in telemetry.access_logging] == [None, True]


def test_what_is_not_set_stays_apart_from_what_is_off() -> None:
    (tracing,) = read_spec("Telemetry", "tracing: [{randomSamplingPercentage: 0, disableSpanReporting: false}]").tracing
    assert tracing.random_sampling_percentage == 0
    assert tracing.disable_span_reporting is False
    assert tracing.enable_istio_tags is None
    assert tracing.match is None


def override(text: str) -> str:
    return f"metrics: [{{overrides: [{text}]}}]"


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param("tracing: [{providers: [{name: ''}]}]", "tracing[0].providers[0].name", "empty", id="TE-03-t"),
        pytest.param("metrics: [{providers: [{name: ''}]}]", "metrics[0].providers[0].name", "empty", id="TE-03-m"),
        pytest.param(
            "accessLogging: [{providers: [{name: a}, {name: ''}]}]",
            "accessLogging[0].providers[1].name",
            "empty",
            id="TE-03-logs",
        ),
        pytest.param(
            "tracing: [{randomSamplingPercentage: 100.5}]", "tracing[0].randomSamplingPercentage", "100.5", id="TE-04"
        ),
        pytest.param(
            "tracing: [{customTags: {'': {literal: {value: a}}}}]", "tracing[0].customTags", "empty", id="TE-05-name"
        ),
        pytest.param("tracing: [{customTags: {a: null}}]", "tracing[0].customTags.a", "null", id="TE-05-null"),
        pytest.param(
            "tracing: [{customTags: {a: {header: {name: ''}}}}]",
            "tracing[0].customTags.a.header.name",
            "empty",
            id="TE-06",
        ),
        pytest.param(
            "tracing: [{customTags: {a: {header: {name: a}, literal: {value: b}}}}]",
            "tracing[0].customTags.a.header",
            "only one of",
            id="TE-07",
        ),
        pytest.param("metrics: [{overrides: [null]}]", "metrics[0].overrides[0]", "null", id="TE-08"),
        pytest.param(
            override("{tagOverrides: {a: null}}"), "metrics[0].overrides[0].tagOverrides.a", "null", id="TE-10"
        ),
        pytest.param(
            override("{tagOverrides: {a: {}}}"), "metrics[0].overrides[0].tagOverrides.a.value", "UPSERT", id="TE-11"
        ),
        pytest.param(
            override("{tagOverrides: {a: {operation: REMOVE, value: b}}}"),
            "metrics[0].overrides[0].tagOverrides.a.value",
            "REMOVE",
            id="TE-12",
        ),
        pytest.param(
            override("{match: {customMetric: ''}}"),
            "metrics[0].overrides[0].match.customMetric",
            "empty",
            id="TE-13",
        ),
        pytest.param(
            override("{match: {customMetric: a, metric: REQUEST_COUNT}}"),
            "metrics[0].overrides[0].match.customMetric",
            "only one of",
            id="TE-13-both",
        ),
        pytest.param("metrics: [{reportingInterval: 10us}]", "metrics[0].reportingInterval", "1ms", id="TE-14"),
        pytest.param(
            "accessLogging: [{filter: {expression: 'a >'}}]",
            "accessLogging[0].filter.expression",
            "character 4",
            id="TE-15",
        ),
        pytest.param(
            "selector: {matchLabels: {a: b}}\ntargetRefs: [{kind: Service, name: x, group: core}]",
            "targetRefs",
            "only one of",
            id="TE-16",
        ),
    ],
)
def test_a_telemetry_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("Telemetry", spec, "error")
    assert [f for f, _ in found] == [f"spec.{field}"]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param("tracing: [{}, {}]", "spec.tracing", id="TE-01"),
        pytest.param("tracing: [{providers: [{name: a}, {name: b}]}]", "spec.tracing[0].providers", id="TE-02"),
        pytest.param(
            override("{tagOverrides: {'': {value: a}}}"), "spec.metrics[0].overrides[0].tagOverrides", id="TE-09"
        ),
    ],
)
def test_a_telemetry_that_is_warned_of(spec: str, field: str) -> None:
    assert [(problem.field, problem.level) for problem in judge("Telemetry", spec)] == [(field, "warning")]


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("tracing: [{randomSamplingPercent: 1}]", "randomSamplingPercentage"),
        ("metrics: [{overrides: [{match: {metric: REQUESTS_COUNT}}]}]", "REQUEST_COUNT"),
        ("accessLogging: [{match: {mode: server}}]", "SERVER"),
    ],
)
def test_a_misspelling_is_refused_with_the_nearest_name(spec: str, hint: str) -> None:
    assert hint in refusal("Telemetry", spec)


# ---------------------------------------------------------------- CEL


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "response.code >= 500 || connection.mtls == false",
        "request.headers['x-a'] in ['b', \"c\",]",
        "has(request.headers.a) ? size(request.path) > 3 : !(-1 < 2u)",
        "xds.route_metadata.filter_metadata['a'].exists(k, k.startsWith('b'))",
        "google.protobuf.Struct{fields: {'a': 1.5e3}}",
        "r'a\\d' + b'bytes' + '''multi\nline''' != \"esc\\\"aped\"",
        "a . b [ 0 ] % 2 == 0x1F // why",
        ".a.b(1, c)",
        "{1: 'a', 'b': {}}",
        "!!a && --b",
        "a.`b-c`",
        "x ? y : z ? 1 : 2",
    ],
)
def test_what_is_cel(text: str) -> None:
    check_cel_syntax(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end"),
        ("   ", "the end"),
        ("a b", "character 3"),
        ("a = b", "'='"),
        ("a && ", "the end"),
        ("(a", "')'"),
        ("a[1", "']'"),
        ("f(1,)", "argument"),
        ("f(,1)", "expression"),
        ("'open", '"\'"'),
        ("a ? b", "':'"),
        ("a.1", "the end"),
        ("a..b", "field's name"),
        ("for", "'for'"),
        ("a and b", "'and'"),
        ("{1 2}", "':'"),
        ("1 + in", "'in'"),
        ("(" * (NESTING_LIMIT + 1), "deeper"),
        ("[" * 100_000, "deeper"),
    ],
)
def test_what_is_not_cel(text: str, words: str) -> None:
    with pytest.raises(CelSyntaxError) as caught:
        check_cel_syntax(text)
    assert words in str(caught.value)
