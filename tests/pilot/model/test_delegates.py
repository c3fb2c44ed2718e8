"""How a delegate's rules are merged with the rule that delegates to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.pilot.model.reading import read_one

from lateen.api.virtual_service import HTTPRoute
from lateen.pilot.model.delegates import merge_delegate

TO = "route: [{destination: {host: a}}]"


def merge(root: str, leaf: str) -> tuple[tuple[HTTPRoute, ...], tuple[int, ...]]:
    rule = read_one(f"hosts: [h], http: [{{delegate: {{name: d, namespace: leaf}}, {root}}}]", namespace="root")
    delegate = read_one(f"http: [{{{leaf}}}]", namespace="leaf")
    return merge_delegate(rule.spec.http[0], "root", delegate)


def matches(root: str, leaf: str) -> list[Any] | None:
    rules, left_out = merge(root, f"{TO}, {leaf}")
    assert bool(rules) != bool(left_out)
    return list(rules[0].match) if rules else None


@pytest.mark.parametrize(
    ("root", "leaf", "paths"),
    [
        pytest.param("match: []", "match: []", [], id="neither matches"),
        pytest.param("match: [{uri: {prefix: /a}}]", "match: []", ["/a"], id="root only"),
        pytest.param("match: []", "match: [{uri: {prefix: /b}}]", ["/b"], id="leaf only"),
        pytest.param("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a/b}}]", ["/a/b"], id="prefix in prefix"),
        pytest.param("match: [{uri: {prefix: /a}}]", "match: [{uri: {exact: /a/b}}]", ["/a/b"], id="exact in prefix"),
        pytest.param("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /b}}]", None, id="prefix elsewhere"),
        pytest.param("match: [{uri: {exact: /a}}]", "match: [{uri: {exact: /a}}]", ["/a"], id="same exact"),
        pytest.param("match: [{uri: {exact: /a}}]", "match: [{uri: {prefix: /a}}]", None, id="prefix under exact"),
        pytest.param("match: [{uri: {prefix: /a}}]", "match: [{uri: {regex: /a.*}}]", None, id="regex on one side"),
        pytest.param(
            "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]",
            "match: [{uri: {prefix: /b/c}}]",
            ["/b/c"],
            id="one of two roots",
        ),
        pytest.param(
            "match: [{uri: {prefix: /a}}]",
            "match: [{uri: {prefix: /a/b}}, {uri: {prefix: /x}}]",
            None,
            id="one of two leaves agrees with none",
        ),
        pytest.param("match: [{port: 80, uri: {prefix: /a}}]", "match: [{port: 81}]", None, id="other port"),
        pytest.param("match: [{port: 80, uri: {prefix: /a}}]", "match: [{name: x}]", ["/a"], id="root's port"),
        pytest.param(
            "match: [{ignoreUriCase: true, uri: {prefix: /a}}]", "match: [{uri: {prefix: /a}}]", None, id="case"
        ),
        pytest.param(
            "match: [{sourceNamespace: x}]", "match: [{uri: {prefix: /a}}]", None, id="namespace only in root"
        ),
        pytest.param("match: [{sourceLabels: {a: b}}]", "match: [{sourceLabels: {a: c}}]", None, id="label differs"),
        pytest.param(
            "match: [{gateways: [gw]}]",
            "match: [{gateways: [gw], uri: {prefix: /a}}]",
            None,
            id="gateways of two namespaces",
        ),
        pytest.param(
            "match: [{gateways: [gw]}]",
            "match: [{gateways: [root/gw], uri: {prefix: /a}}]",
            ["/a"],
            id="the same gateway",
        ),
        pytest.param("match: [{method: {exact: GET}}]", "match: [{method: {exact: PUT}}]", None, id="method"),
        pytest.param("match: [{headers: {x: {exact: a}}}]", "match: [{headers: {x: {regex: a}}}]", None, id="header"),
        pytest.param(
            "match: [{queryParams: {x: {exact: a}}}]",
            "match: [{queryParams: {x: {exact: b}}}]",
            None,
            id="query parameter",
        ),
        pytest.param(
            "match: [{withoutHeaders: {x: {exact: a}}}]",
            "match: [{withoutHeaders: {x: {exact: b}}}]",
            None,
            id="without header",
        ),
    ],
)
def test_matches_merge_or_conflict(root: str, leaf: str, paths: list[str] | None) -> None:
    found = matches(root, leaf)
    assert (None if found is None else [match.uri.exact or match.uri.prefix for match in found]) == paths


def test_a_merged_match_has_both_sides_conditions() -> None:
    (match,) = matches(
        "match: [{name: r, port: 80, headers: {a: {exact: x}, b: {}}, sourceLabels: {app: c}, statPrefix: s}]",
        "match: [{name: l, headers: {b: {prefix: y}, a: {}}, sourceLabels: {lane: d}}]",
    ) or [None]
    assert (match.name, match.port, match.stat_prefix) == ("r-l", 80, "s")
    # Asking for presence only never widens what the other side asks for.
    assert {key: text.exact or text.prefix for key, text in match.headers.items()} == {"a": "x", "b": "y"}
    assert match.source_labels == {"app": "c", "lane": "d"}


def test_a_delegates_rule_is_completed_by_the_roots() -> None:
    root = (
        "name: r, timeout: 3s, retries: {attempts: 1}, rewrite: {uri: /r}, fault: {abort: {httpStatus: 418}}, "
        "corsPolicy: {allowMethods: [GET]}, headers: {request: {set: {a: b}}}, mirror: {host: m}"
    )
    ((bare, own), left_out) = merge(
        root, f"name: l, {TO}}}, {{timeout: 1s, rewrite: {{uri: /l}}, route: [{{destination: {{host: b.other}}}}]"
    )
    assert left_out == ()
    assert bare.name == "r-l"
    assert own.name == "r"
    assert (bare.timeout, own.timeout) == (timedelta(seconds=3), timedelta(seconds=1))
    assert bare.rewrite is not None
    assert own.rewrite is not None
    assert (bare.rewrite.uri, own.rewrite.uri) == ("/r", "/l")
    assert bare.retries is own.retries is not None
    assert bare.fault is own.fault is not None
    assert bare.cors_policy is own.cors_policy is not None
    assert bare.headers is own.headers is not None
    assert bare.delegate is own.delegate is None


def test_short_names_of_a_delegate_mean_its_own_namespace() -> None:
    ((rule,), _) = merge("name: r", f"{TO}, mirrors: [{{destination: {{host: m}}}}]")
    assert rule.route[0].destination is not None
    assert rule.route[0].destination.host == "a.leaf.svc.cluster.local"
    assert rule.mirrors[0].destination.host == "m.leaf.svc.cluster.local"
