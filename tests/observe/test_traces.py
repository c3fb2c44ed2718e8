"""Traces in bounded memory, their order, and how they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.observe.spans import Span
from lateen.observe.traces import TraceStore, arrange, summary
from lateen.observe.waterfall import list_text, trace_data, trace_text

START = 1_700_000_000_000_000


def span(name: str, parent: str = "", at: int = 0, took: int = 1000, *, trace: int = 1, **fields: object) -> Span:
    return Span(
        **{
            "trace_id": f"{trace:032x}",
            "span_id": f"{name:0>16}",
            "parent_id": f"{parent:0>16}" if parent else "",
            "name": name,
            "kind": "",
            "service": f"s{name}",
            "start_us": START + at,
            "duration_us": took,
            **fields,  # type: ignore[arg-type]  # tests name them
        }
    )


def order(*spans: Span) -> list[tuple[str, int]]:
    return [(placed.span.name, len(placed.last)) for placed in arrange(spans)]


def test_a_tree_by_start() -> None:
    spans = [span("c", "a", at=5), span("d", "b", at=2), span("b", "a", at=1), span("a")]
    assert order(*spans) == [("a", 0), ("b", 1), ("d", 2), ("c", 1)]


def test_a_span_whose_parent_is_not_there_is_a_root() -> None:
    assert order(span("b", "gone", at=1), span("a"), span("c", "b", at=2)) == [("a", 0), ("b", 0), ("c", 1)]


def test_a_ring_is_cut_and_nothing_is_lost() -> None:
    spans = [span("a", "b"), span("b", "a", at=1), span("c", "c", at=2)]
    assert order(*spans) == [("c", 0), ("a", 0), ("b", 1)]


def test_a_servers_span_with_its_clients_id_is_below_it() -> None:
    client, server = span("x", kind="client"), span("x", at=1, kind="server", service="server")
    inner = span("y", "x", at=2)
    assert [(placed.span.service, len(placed.last)) for placed in arrange([server, inner, client])] == [
        ("sx", 0),
        ("server", 1),
        ("sy", 2),
    ]


def test_a_long_chain() -> None:
    spans = [span(f"{number:x}", f"{number - 1:x}" if number else "", at=number) for number in range(2000)]
    assert order(*spans)[-1] == ("7cf", 1999)
    assert len(trace_text(spans).splitlines()) == 2002


names = st.sampled_from("abcdef")


@given(st.lists(st.tuples(names, names | st.just(""), st.integers(-5, 5), st.sampled_from(["", "client", "server"]))))
def test_every_span_is_shown_once_whatever_they_say(told: list[tuple[str, str, int, str]]) -> None:
    spans = [span(name, parent, at=at, kind=kind) for name, parent, at, kind in told]
    assert sorted(id(placed.span) for placed in arrange(spans)) == sorted(map(id, spans))
    if spans:
        assert len(trace_text(spans, width=20).splitlines()) == len(spans) + 2


def test_the_oldest_trace_goes() -> None:
    store = TraceStore(max_spans=4, max_spans_of_trace=3)
    for number in range(4):
        store.add([span("a", trace=number), span("b", "a", trace=number)])
    assert [one.trace_id[-1] for one in store.recent(10)] == ["3", "2"]
    assert (store.received, store.dropped, len(store)) == (8, 4, 2)
    assert store.trace(f"{0:032x}") == ()
    # One trace alone does not push out all others.
    store.add([span(str(number), trace=3) for number in range(9)])
    assert len(store.trace(f"{3:032x}")) == 3
    assert store.dropped == 4 + 8 + 2


def test_a_span_that_comes_again_replaces_itself() -> None:
    store = TraceStore()
    store.add([span("a", took=0), span("a", took=5)])
    assert [one.duration_us for one in store.trace(f"{1:032x}")] == [5]


def test_lists() -> None:
    store = TraceStore()
    store.add(
        [span("a", took=2500, attributes={"http.status_code": "200"}), span("b", "a", service="db.shop", error=True)]
    )
    store.add([span("c", trace=0xABC)])
    assert store.named("0000") == [f"{0xABC:032x}", f"{1:032x}"]
    assert [one.name for one in store.recent(10, "db")] == ["a"]
    assert [one.name for one in store.recent(1)] == ["c"]
    told = summary(store.trace(f"{1:032x}"))
    assert (told.duration_us, told.spans, told.services, told.status, told.errors) == (
        2500,
        2,
        ("db.shop", "sa"),
        "200",
        1,
    )
    lines = list_text(store.recent(10)).splitlines()
    assert lines[0].split() == ["TRACE", "BEGAN", "TOOK", "SPANS", "STATUS", "SERVICES", "FIRST"]
    assert lines[2].split() == [
        f"{1:032x}",
        "2023-11-14T22:13:20.000Z",
        "2.5",
        "ms",
        "2",
        "200",
        "(1",
        "error)",
        "2",
        "sa",
        "a",
    ]


def test_a_waterfall() -> None:
    spans = [
        span("a", took=10_000, service="web", attributes={"http.status_code": "200"}),
        span("b", "a", at=2_000, took=6_000, service="reviews", kind="client", error=True),
        span("c", "b", at=3_000, took=2_000, service="ratings", attributes={"grpc.status_code": "14"}),
        span("d", "a", at=9_000, took=1_000, service="details"),
    ]
    assert trace_text(spans, width=90) == (
        "trace 00000000000000000000000000000001  2023-11-14T22:13:20.000Z  10.0 ms  4 spans, 4 services, 1 error\n"
        "\n"
        "web            a         +0.0 ms  10.0 ms  200      ██████████████████████████████████████\n"
        "├─ reviews     client b  +2.0 ms   6.0 ms  - !             ██████████████████████▊\n"
        "│  └─ ratings  c         +3.0 ms   2.0 ms  grpc 14             ███████▌\n"
        "└─ details     d         +9.0 ms   1.0 ms  -                                          ███▊\n"
    )
    data = trace_data(spans)
    assert [one["depth"] for one in data["spans"]] == [0, 1, 2, 1]
    assert data["spans"][2]["status"] == "grpc 14"
    assert data["durationMicroseconds"] == 10_000


@pytest.mark.parametrize("at", [-(10**18), 10**18])
def test_clocks_that_are_out_of_their_mind(at: int) -> None:
    text = trace_text([span("a"), span("b", "a", at=at, took=10**15)], width=60)
    assert len(text.splitlines()) == 4
