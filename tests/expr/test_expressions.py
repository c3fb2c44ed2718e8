"""Expressions: their types, what they read, what they come to, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lateen.expr import ABSENT, ATTRIBUTES, Activation, ExpressionError, Phase, Read, Type, compile_expression
from lateen.expr.lists import ListError, build_list

PAGE = Path(__file__).parent.parent.parent / "docs" / "mixer" / "attributes.md"
HEADERS = "request.headers"
BAG: dict[str, Any] = {
    "source": {"ip": "10.0.0.7", "port": 4711, "namespace": "shop", "workload": {"name": "web"}},
    "request": {
        "headers": {"x-client": "a"},
        "method": "GET",
        "time": Timestamp(seconds=1_800_000_000),
        "auth": {"claims": {"groups": ["interns"], "level": 3.0, "deep": {"er": {"k": [1.0, None, "x"]}}}},
    },
    "response": {"code": 503, "duration": Duration(seconds=2)},
}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ('source.namespace == "shop"', Type.BOOL, True),
        ('request.headers["x-client"]', Type.STRING, "a"),
        ('"interns" in request.auth.claims.groups', Type.BOOL, True),
        ("request.auth.claims.level > 2.5", Type.BOOL, True),
        ("request.auth.claims.deep", Type.DYN, {"er": {"k": [1.0, None, "x"]}}),
        ("request.headers", Type.STRINGS, {"x-client": "a"}),
        ("source.port + 1", Type.INT, 4712),
        ('response.duration > duration("1s")', Type.BOOL, True),
        ('request.time > timestamp("2020-01-01T00:00:00Z")', Type.BOOL, True),
        ('request.method.lowerAscii() + "!"', Type.STRING, "get!"),
        ("[source.ip, request.method]", Type.LIST, ["10.0.0.7", "GET"]),
        ('has(source.labels) && source.labels["app"] == "x"', Type.BOOL, False),
        ('"x-none" in request.headers', Type.BOOL, False),
        ('request.headers["x-none"]', Type.STRING, ABSENT),
        ("destination.principal", Type.STRING, ABSENT),
        ('destination.principal == "x"', Type.BOOL, ABSENT),
        ('destination.principal == "x" || source.namespace == "shop"', Type.BOOL, True),
        ("1 / (source.port - 4711) == 1", Type.BOOL, ABSENT),
        ("request.method.matches('[')", Type.BOOL, ABSENT),
        ("true", Type.BOOL, True),
    ],
)
def test_values(text: str, kind: Type, value: Any) -> None:
    expression = compile_expression(text)
    assert expression.type is kind
    assert expression.evaluate(Activation(BAG)) == value
    assert expression.holds(Activation(BAG)) is (value is True)


@pytest.mark.parametrize(
    ("text", "reads", "phase"),
    [
        ("source.ip", [("source.ip", None)], Phase.CONNECTION),
        ('request.headers["a"] == request.headers.b', [(HEADERS, "a"), (HEADERS, "b")], Phase.REQUEST),
        ('"z" in request.headers', [("request.headers", "z")], Phase.REQUEST),
        ("has(request.headers.y)", [("request.headers", "y")], Phase.REQUEST),
        ('request.headers.exists(h, h == "x")', [("request.headers", None)], Phase.REQUEST),
        ("source.labels[request.method]", [("source.labels", None), ("request.method", None)], Phase.REQUEST),
        ("request.auth.claims.a.b", [("request.auth.claims", "a")], Phase.REQUEST),
        ('request.auth.claims.groups.exists(g, g == "a")', [("request.auth.claims", "groups")], Phase.REQUEST),
        ("[1].map(source, source)", [], Phase.CONNECTION),  # a name of its own, not the attribute's
        ("response.code", [("response.code", None)], Phase.END),
        ("1 == 1", [], Phase.CONNECTION),
    ],
)
def test_what_is_read_and_when_it_is_known(text: str, reads: list[tuple[str, str | None]], phase: Phase) -> None:
    expression = compile_expression(text)
    assert expression.reads == {Read(*read) for read in reads}
    assert expression.phase is phase


@pytest.mark.parametrize(
    ("text", "want", "message", "place"),
    [
        ("request.tim", None, "undefined field 'tim' not found in struct request", (1, 8)),
        ("sauce.ip", None, "undeclared reference to 'sauce.ip'", None),
        ('source.port == "80"', None, "no matching overload", (1, 13)),
        ('source.ip == "a" &&\n  source.port > "b"', None, "no matching overload", (2, 15)),
        ("source.ip", Type.BOOL, "must be bool, is string", (1, 1)),
        ("1 +", None, "Syntax error", (1, 4)),
        ("source", None, "a group of attributes", (1, 1)),
        ('request.headers["X-A"] == "a"', None, "names of headers are in lower case here: 'x-a'", (1, 16)),
        ('"X-A" in request.headers', None, "names of headers are in lower case here: 'x-a'", None),
        ("source == destination", None, "no matching overload", (1, 8)),
        ("response.code == 200", Type.BOOL, "response.code is known only when a request is over", (1, 9)),
        ("", None, "", None),
        ("'" + "x" * 5000 + "'", None, "longer than 4096 characters", (1, 1)),
        ("source.ip == 'a\0'", None, "zero byte", (1, 1)),
        ("[1].all(a, [1].all(b, [1].all(c, a + b + c > 0)))", None, "lists within lists", (1, 1)),
        (" || ".join(["source.port == 1"] * 200), None, "more than 500 parts", (1, 1)),
        ("(" * 300 + "1" + ")" * 300, None, "", None),
    ],
)
def test_what_is_refused(text: str, want: Type | None, message: str, place: tuple[int, int] | None) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, want=want, phase=Phase.REQUEST)
    assert message in caught.value.message
    if place is not None:
        assert (caught.value.line, caught.value.column) == place


def test_attributes_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    known = {Phase.CONNECTION: "connection", Phase.REQUEST: "request", Phase.END: "end"}
    wanted = [
        (each.name, each.type.value, known[each.phase], each.meaning + (" (told)" if each.told else ""))
        for each in ATTRIBUTES
    ]
    assert [tuple(cell.strip() for cell in row) for row in rows] == wanted


@pytest.mark.parametrize(
    ("kind", "entries", "inside", "outside"),
    [
        ("STRINGS", ["a", "b"], ["a"], ["A", "", "ab"]),
        ("CASE_INSENSITIVE_STRINGS", ["Straße"], ["STRASSE", "straße"], ["strase"]),
        ("REGEX", ["a+b?", "x|y"], ["aab", "y"], ["aac", "xz", ""]),
        (
            "IP_ADDRESSES",
            ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"],
            ["10.9.9.9", "192.0.2.7", "2001:db8:1::1", "::ffff:10.0.0.1"],
            ["11.0.0.1", "192.0.2.8", "::1", "nonsense", ""],
        ),
    ],
)
def test_lists(kind: str, entries: list[str], inside: list[str], outside: list[str]) -> None:
    found = build_list(kind, entries)
    assert [value for value in inside if value not in found] == []
    assert [value for value in outside if value in found] == []
    assert len(found) == len(entries)


@pytest.mark.parametrize(("kind", "entry"), [("REGEX", "("), ("REGEX", r"(a)\1"), ("IP_ADDRESSES", "10.0.0.0/99")])
def test_an_entry_that_cannot_be_used_is_named(kind: str, entry: str) -> None:
    good = "1.2.3.4"
    with pytest.raises(ListError, match=re.escape(repr(entry))) as caught:
        build_list(kind, [good, entry])
    assert caught.value.position == 1


def test_a_pattern_that_would_take_for_ever_elsewhere_is_linear() -> None:
    assert "a" * 50_000 + "!" not in build_list("REGEX", ["(a+)+$"])
