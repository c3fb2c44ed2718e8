"""Pictures of the mesh: each form is well-formed whatever a name holds, and shows every edge once."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.observe.edges import Edge
from lateen.observe.graph import columns_of, edge_data, to_dot, to_svg, to_text

SVG = "{http://www.w3.org/2000/svg}"


def edge(source: str, destination: str, **fields: Any) -> Edge:
    defaults: dict[str, Any] = {
        "protocol": "http",
        "requests": 120.0,
        "requests_per_second": 4.0,
        "success_ratio": 1.0,
        "refused": 0.0,
        "p50_ms": 1.0,
        "p90_ms": 2.0,
        "p99_ms": 3.4,
        "bytes_per_second": 0.0,
        "mutual_tls": True,
    }
    return Edge(source=source, destination=destination, **{**defaults, **fields})


SHOP = [
    edge("gateway", "page"),
    edge("page", "details"),
    edge("page", "reviews", success_ratio=0.5),
    edge("reviews", "ratings", mutual_tls=False),
    edge("page", "mysql", protocol="tcp"),
]


def test_columns_are_the_longest_way_from_who_is_not_called() -> None:
    assert columns_of([*SHOP, edge("gateway", "ratings")]) == {
        "gateway": 0,
        "page": 1,
        "details": 2,
        "mysql": 2,
        "reviews": 2,
        "ratings": 3,
    }


@pytest.mark.parametrize("ring", [[("a", "a")], [("a", "b"), ("b", "a")], [("a", "b"), ("b", "c"), ("c", "a")]])
def test_rings_end(ring: list[tuple[str, str]]) -> None:
    edges = [edge(*pair) for pair in ring]
    assert columns_of(edges) == {name: index for index, name in enumerate(sorted({n for p in ring for n in p}))}
    for source, destination in ring:
        assert source in to_text(edges)
        assert destination in to_text(edges)


def test_the_tree() -> None:
    assert to_text(SHOP) == (
        "gateway\n"
        "└─ page  120 http requests, 100.0% ok, p99 3 ms, mTLS\n"
        "   ├─ details  120 http requests, 100.0% ok, p99 3 ms, mTLS\n"
        "   ├─ reviews  120 http requests, 50.0% ok, p99 3 ms, mTLS\n"
        "   │  └─ ratings  120 http requests, 100.0% ok, p99 3 ms, plain text\n"
        "   └─ mysql  120 connections, mTLS\n"
    )
    assert to_text([]) == "no traffic was seen\n"


def test_the_picture_has_a_box_a_workload_and_an_arrow_an_edge() -> None:
    root = ET.fromstring(to_svg(SHOP))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert sorted(title for title in titles if title and " to " not in title) == [
        "details",
        "gateway",
        "mysql",
        "page",
        "ratings",
        "reviews",
    ]
    arrows = [path for path in root.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(arrows) == len(SHOP)
    assert [arrow.get("stroke-dasharray") for arrow in arrows].count("5 4") == 1
    assert [arrow.get("marker-end") for arrow in arrows].count("url(#bad)") == 1


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]), min_size=1, max_size=30)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12, unique=True))
def test_no_name_breaks_a_form(pairs: list[tuple[str, str]]) -> None:
    edges = [edge(*pair) for pair in pairs]
    names = {name for pair in pairs for name in pair}
    root = ET.fromstring(to_svg(edges))
    assert {title.text for title in root.iter(f"{SVG}title")} >= names
    assert to_dot(edges).count(" -> ") >= len(pairs)
    assert [(one["source"], one["destination"]) for one in edge_data(edges)] == pairs
    assert all(name in to_text(edges) for name in names)


def test_what_was_refused_is_said() -> None:
    assert "b  120 http requests, 100.0% ok, 4 refused, p99 3 ms, mTLS" in to_text([edge("a", "b", refused=4.0)])
