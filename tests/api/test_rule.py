"""Rules that are refused: field, reason and place."""

from __future__ import annotations

import pytest

from lateen.api.decode import decode_documents

CHANGES = "spec.check.headers.request"


def faults(spec: str) -> list[tuple[str, str]]:
    text = f"apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
    decoded = decode_documents(text.encode(), "it.yaml")
    return [(problem.field, problem.message) for problem in decoded.problems if problem.level == "error"]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ("{}", "spec", "does nothing"),
        ("{check: {}}", "spec.check", "does nothing"),
        ("{report: {}}", "spec.report", "does nothing"),
        ("{match: request.metod == 'x', check: {deny: {}}}", "spec.match", "undefined field 'metod'"),
        ("{match: request.method, check: {deny: {}}}", "spec.match", "must be bool, is string"),
        ("{match: response.code == 1, check: {deny: {}}}", "spec.match", "only when a request is over"),
        ("{check: {deny: {}, allow: {}}}", "spec.check", "exclude each other"),
        ("{check: {deny: {status: 451}}}", "spec.check.deny.status", "a status that Envoy knows, got 451"),
        ("{check: {deny: {status: 200}}}", "spec.check.deny.status", "300"),
        ("{check: {deny: {body: 3}}}", "spec.check.deny.body", "must be text"),
        ("{check: {deny: {headers: {'a b': c}}}}", "spec.check.deny.headers[a b]", "name of a header"),
        (
            "{check: {headers: {request: {set: {host: source.ip}}}}}",
            "spec.check.headers.request.set.host",
            "no rule may",
        ),
        (
            "{check: {headers: {request: {remove: [x-envoy-foo]}}}}",
            "spec.check.headers.request.remove[0]",
            "no rule may",
        ),
        (
            "{check: {headers: {request: {set: {a: source.port}}}}}",
            "spec.check.headers.request.set.a",
            "must be string",
        ),
        ("{check: {list: {value: source.ip}}}", "spec.check.list", "values, a file or a url"),
        ("{check: {list: {value: source.ip, file: ../x}}}", "spec.check.list.file", "beside the rule"),
        (
            "{check: {list: {value: source.ip, type: REGEX, values: [a, '(']}}}",
            "spec.check.list.values[1]",
            "a regular expression (RE2)",
        ),
        ("{check: {nobodys: {}}}", "spec.check.nobodys", "is not a field of RuleCheck"),
        ("{quota: {limit: 0, per: 1s}}", "spec.quota.limit", "1"),
        ("{quota: {limit: 1, per: 1s, by: [nothing]}}", "spec.quota.by[0]", "undeclared"),
        ("{quota: {limit: 1, per: 1s, amount: source.ip}}", "spec.quota.amount", "must be int"),
        ("{report: {log: {fields: {}}}}", "spec.report.log.fields", "must not be empty"),
        ("{report: {log: {file: a/b, fields: {a: source.ip}}}}", "spec.report.log.file", "a name without folders"),
        ("{report: {metric: {name: a-b}}}", "spec.report.metric.name", "name of a metric"),
        ("{report: {metric: {name: a, value: source.ip}}}", "spec.report.metric.value", "must be int"),
        ("{report: {metric: {name: a, labels: {le: source.ip}}}}", "spec.report.metric.labels.le", "name of a label"),
        ("{report: {metric: {name: a, buckets: [1]}}}", "spec.report.metric.buckets", "a COUNTER has none"),
        (
            "{report: {metric: {name: a, kind: HISTOGRAM, buckets: [2, 1]}}}",
            "spec.report.metric.buckets",
            "must rise",
        ),
        ("{gateway: A b, check: {deny: {}}}", "spec.gateway", "must be the name of a Gateway, or NAMESPACE/NAME"),
        ("{gateway: a, selector: {matchLabels: {a: b}}, check: {deny: {}}}", "spec.gateway", "exclude each other"),
        ("{timeout: 2m, check: {deny: {}}}", "spec.timeout", "between 1ms and 60s"),
        ("{failurePolicy: maybe, check: {deny: {}}}", "spec.failurePolicy", "closed"),
    ],
)
def test_a_rule_that_cannot_stand(spec: str, field: str, words: str) -> None:
    found = faults(spec)
    assert [name for name, _ in found] == [field], found
    assert words in found[0][1]


@pytest.mark.parametrize(
    "spec",
    [
        "{match: '\"interns\" in request.auth.claims.groups', check: {deny: {status: 403}}}",
        "{quota: {limit: 100, per: 1m, by: ['request.headers[\"x-client\"]', source.principal]}}",
        "{match: response.code >= 500, report: {log: {fields: {path: request.path, ms: response.duration}}}}",
        "{report: {metric: {name: seconds, kind: HISTOGRAM, value: response.duration, buckets: [0.1, 1]}}}",
        "{selector: {matchLabels: {app: a}}, check: {allow: {}}, failurePolicy: open, timeout: 20ms}",
    ],
)
def test_rules_that_stand(spec: str) -> None:
    assert faults(spec) == []
