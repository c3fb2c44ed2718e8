"""What a change runs again, and what it leaves alone: counted, not timed."""

from __future__ import annotations

from typing import Any

import pytest

from lateen.flow import Graph, Index, Input, Read


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def prices(graph: Graph) -> Input[str, int]:
    prices: Input[str, int] = graph.input("prices")
    with graph.batch():
        prices.set("apple", 3)
        prices.set("pear", 5)
    return prices


def by_initial(graph: Graph, source: Input[str, int]) -> Index[str, str]:
    return graph.index("by_initial", source, lambda key, value: [key[0]])


def test_only_readers_of_the_changed_key_run(graph: Graph, prices: Input[str, int]) -> None:
    double = graph.derive("double", lambda read, key: 2 * (read.get(prices, key) or 0))
    assert (double.live("apple"), double.live("pear")) == (6, 10)
    graph.stats.reset()
    prices.set("apple", 4)
    assert double.peek("apple") == 8
    assert graph.stats.recomputed == {"double": 1}


def test_a_missing_row_is_read_too(graph: Graph, prices: Input[str, int]) -> None:
    known = graph.derive("known", lambda read, key: read.get(prices, key) is not None)
    assert not known.live("fig")
    graph.stats.reset()
    prices.set("quince", 1)
    assert graph.stats.recomputed == {}
    prices.set("fig", 1)
    assert known.peek("fig")
    prices.delete("fig")
    assert not known.peek("fig")
    assert graph.stats.recomputed == {"known": 2}


def test_defaults_stand_in_for_missing_rows_only(graph: Graph) -> None:
    rows: Input[str, int | None] = graph.input("rows")
    rows.set("null", None)
    seen = graph.derive("seen", lambda read, key: (read.get(rows, key, 7), read(rows, key)))
    assert seen.peek("null") == (None, None)
    assert seen.peek("gone") == (7, None)
    assert rows.get("gone", 7) == 7
    assert rows.get("null", 7) is None


def test_an_equal_output_stops_the_wave(graph: Graph, prices: Input[str, int]) -> None:
    dear = graph.derive("dear", lambda read, key: (read.get(prices, key) or 0) > 3)
    label = graph.derive("label", lambda read, key: "dear" if read.get(dear, key) else "cheap")
    shelf = graph.derive("shelf", lambda read, key: [read.get(label, name) for name in ("apple", "pear")])
    assert shelf.live("all") == ["cheap", "dear"]
    graph.stats.reset()
    prices.set("pear", 50)
    assert graph.stats.recomputed == {"dear": 1}
    prices.set("apple", 4)
    assert graph.stats.recomputed == {"dear": 2, "label": 1, "shelf": 1}
    assert shelf.peek("all") == ["dear", "dear"]


def test_setting_an_equal_value_is_no_change_but_the_new_object_is_kept(graph: Graph) -> None:
    class Row:
        def __init__(self, content: str, line: int) -> None:
            self.content, self.line = content, line

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Row) and self.content == other.content

        def __hash__(self) -> int:
            return hash(self.content)

    rows: Input[str, Row] = graph.input("rows")
    rows.set("a", Row("same", 1))
    text = graph.derive("text", lambda read, key: getattr(read.get(rows, key), "content", None))
    text.live("a")
    graph.stats.reset()
    rows.set("a", Row("same", 2))
    assert graph.stats.recomputed == {}
    assert getattr(rows.get("a"), "line", None) == 2


def test_rows_that_cannot_be_compared_have_changed(graph: Graph) -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("no")

        __hash__ = None  # type: ignore[assignment]  # as arrays are

    rows: Input[str, Odd] = graph.input("rows")
    rows.set("a", Odd())
    kind = graph.derive("kind", lambda read, key: read.get(rows, key))
    kind.live("a")
    graph.stats.reset()
    newer = Odd()
    rows.set("a", newer)
    assert graph.stats.recomputed == {"kind": 1}
    assert kind.peek("a") is newer


def test_a_batch_runs_each_output_once(graph: Graph, prices: Input[str, int]) -> None:
    total = graph.derive("total", lambda read, key: sum(read.get(prices, name) or 0 for name in read.keys(prices)))
    seen: list[Any] = []
    graph.on_change(total, seen.append)
    assert total.live("all") == 8
    graph.stats.reset()
    with graph.batch():
        prices.set("apple", 10)
        with graph.batch():
            prices.set("pear", 20)
        prices.set("plum", 30)
        assert graph.stats.recomputed == {}
    assert graph.stats.recomputed == {"total": 1}
    assert seen == [[("all", 8, 60)]]


def test_there_and_back_again_within_a_batch_is_no_change(graph: Graph, prices: Input[str, int]) -> None:
    index = by_initial(graph, prices)
    total = graph.derive(
        "total", lambda read, key: [read.keys(prices), read.lookup(index, "a"), read.get(prices, "fig")]
    )
    total.live("all")
    graph.stats.reset()
    with graph.batch():
        prices.set("apple", 10)
        prices.delete("pear")
        prices.set("fig", 1)
        prices.set("apple", 3)
        prices.set("pear", 5)
        prices.delete("fig")
    assert graph.stats.recomputed == {}


def test_asking_within_a_batch_sees_what_was_set_and_is_told_at_the_end(graph: Graph, prices: Input[str, int]) -> None:
    double = graph.derive("double", lambda read, key: 2 * (read.get(prices, key) or 0))
    seen: list[Any] = []
    graph.on_change(double, seen.append)
    double.live("apple")
    with graph.batch():
        prices.set("apple", 4)
        assert double.peek("apple") == 8
        assert seen == []
        prices.set("apple", 5)
    assert seen == [[("apple", 6, 10)]]


def test_a_batch_that_raises_commits_what_it_had_set(graph: Graph, prices: Input[str, int]) -> None:
    double = graph.derive("double", lambda read, key: 2 * (read.get(prices, key) or 0))
    double.live("apple")

    def fill() -> None:
        with graph.batch():
            prices.set("apple", 4)
            raise KeyError("source")

    with pytest.raises(KeyError):
        fill()
    assert double.peek("apple") == 8


def test_keys_are_read_as_a_set(graph: Graph, prices: Input[str, int]) -> None:
    names = graph.derive("names", lambda read, key: read.keys(prices))
    assert names.live("all") == ("apple", "pear")
    graph.stats.reset()
    prices.set("apple", 4)
    assert graph.stats.recomputed == {}
    prices.set("banana", 1)
    assert names.peek("all") == ("apple", "banana", "pear")
    prices.delete("apple")
    assert names.peek("all") == ("banana", "pear")
    assert graph.stats.recomputed == {"names": 2}


def test_lookups_are_read_by_index_key(graph: Graph, prices: Input[str, int]) -> None:
    index = by_initial(graph, prices)
    found = graph.derive("found", lambda read, key: read.lookup(index, key))
    assert (found.live("a"), found.live("p"), found.live("z")) == (("apple",), ("pear",), ())
    graph.stats.reset()
    prices.set("pear", 6)
    assert graph.stats.recomputed == {"by_initial": 1}
    prices.set("plum", 6)
    assert found.peek("p") == ("pear", "plum")
    assert graph.stats.recomputed == {"by_initial": 2, "found": 1}
    prices.delete("pear")
    prices.set("zucchini", 1)
    assert (found.peek("p"), found.peek("z")) == (("plum",), ("zucchini",))
    assert graph.stats.recomputed == {"by_initial": 3, "found": 3}


def test_reads_come_and_go_with_the_data(graph: Graph, prices: Input[str, int]) -> None:
    which: Input[str, str] = graph.input("which")
    which.set("now", "apple")
    chosen = graph.derive("chosen", lambda read, key: read.get(prices, read.get(which, key) or "apple"))
    assert chosen.live("now") == 3
    which.set("now", "pear")
    graph.stats.reset()
    prices.set("apple", 99)
    assert graph.stats.recomputed == {}
    prices.set("pear", 6)
    assert chosen.peek("now") == 6


def test_what_nobody_will_ask_for_again_is_not_run(graph: Graph, prices: Input[str, int]) -> None:
    """The row is gone, and so is everybody's interest: its function must not see a missing row."""
    index = by_initial(graph, prices)
    tag = graph.derive("tag", lambda read, key: f"{key}: {read.get(prices, key)}")
    shelf = graph.derive("shelf", lambda read, key: [read.get(tag, name) for name in read.lookup(index, key)])
    prices.set("plum", 1)
    assert shelf.live("p") == ["pear: 5", "plum: 1"]
    graph.stats.reset()
    prices.delete("pear")
    assert shelf.peek("p") == ["plum: 1"]
    assert graph.stats.recomputed == {"shelf": 1}
    assert graph.stats.held["tag"] == 1


def test_tables_go_first_because_they_tell_what_is_still_wanted(graph: Graph, prices: Input[str, int]) -> None:
    tag = graph.derive("tag", lambda read, key: f"{key}: {read.get(prices, key)}")
    offers = graph.table("offers", prices, lambda read, key, value: [(key, value)])
    cheap = graph.index("cheap", offers, lambda key, value: [value < 10])
    shelves = graph.derive(
        "shelves", lambda read, key: [key, *(read.get(tag, name) for name in read.lookup(cheap, True))]
    )
    shelves.live("left")
    shelves.live("right")
    graph.stats.reset()
    prices.delete("pear")
    assert shelves.peek("left") == ["left", "apple: 3"]
    assert graph.stats.recomputed == {"shelves": 2}


def test_a_derived_collection_may_read_itself(graph: Graph) -> None:
    parent: Input[str, str] = graph.input("parent")
    with graph.batch():
        for child, above in {"e": "d", "d": "c", "c": "b", "b": "a", "f": "c"}.items():
            parent.set(child, above)

    def _path(read: Read, key: str) -> tuple[str, ...]:
        above = read.get(parent, key)
        return (key,) if above is None else (*read.get(path, above), key)

    def _depth(read: Read, key: str) -> int:
        above = read.get(parent, key)
        return 0 if above is None else min(2, read.get(depth, above) + 1)

    path = graph.derive("path", _path)
    depth = graph.derive("depth", _depth)
    assert path.live("e") == ("a", "b", "c", "d", "e")
    assert path.live("f") == ("a", "b", "c", "f")
    assert depth.live("e") == 2
    graph.stats.reset()
    parent.set("c", "a")
    assert path.peek("e") == ("a", "c", "d", "e")
    assert path.peek("f") == ("a", "c", "f")
    # `depth` of c is 1 now, so d is asked, comes out equal, and e is not.
    assert graph.stats.recomputed == {"path": 4, "depth": 2}
    assert graph.stats.held == {"parent": 5 + 1, "path": 5, "depth": 4}


def test_collections_may_be_declared_in_any_order(graph: Graph, prices: Input[str, int]) -> None:
    """`first` begins to read what is declared after it while that still has work to do."""
    flag: Input[str, bool] = graph.input("flag")

    def _first(read: Read, key: str) -> Any:
        return read.get(late, (key, "copy")) if read.get(flag, "on") else None

    first = graph.derive("first", _first)
    second = graph.derive("second", lambda read, key: [read.get(first, key), read.get(prices, key)])
    middle = graph.derive("middle", lambda read, key: (read.get(prices, key) or 0) + 1)
    late = graph.table("late", prices, lambda read, key, value: [((key, "copy"), read.get(middle, key))])
    assert first.live("apple") is None
    assert second.live("apple") == [None, 3]
    graph.stats.reset()
    with graph.batch():
        flag.set("on", True)
        prices.set("apple", 10)
    assert second.peek("apple") == [11, 10]
    assert graph.stats.recomputed == {"first": 1, "second": 1, "middle": 1, "late": 1}
    prices.set("apple", 20)
    assert second.peek("apple") == [21, 20]
    assert graph.stats.recomputed == {"first": 2, "second": 2, "middle": 2, "late": 2}


def test_provenance_names_every_input_key_behind_an_output(graph: Graph, prices: Input[str, int]) -> None:
    stock: Input[str, int] = graph.input("stock")
    index = by_initial(graph, prices)
    double = graph.derive("double", lambda read, key: 2 * (read.get(prices, key) or 0))
    table = graph.table("table", stock, lambda read, key, value: [((key, "total"), value * read.get(double, key))])
    worth = graph.derive("worth", lambda read, key: read.get(table, (key, "total")))
    stock.set("apple", 2)
    assert worth.live("apple") == 12
    assert graph.provenance(worth, "apple") == {(stock, "apple"), (prices, "apple")}
    assert graph.provenance(worth, "fig") == frozenset()  # no row, so nobody made it
    assert graph.provenance(double, "fig") == {(prices, "fig")}
    found = graph.derive("found", lambda read, key: (read.lookup(index, key), read.keys(stock)))
    assert graph.provenance(found, "p") == {(prices, "pear"), (stock, "apple")}
    assert graph.stats.held["found"] == graph.stats.held["by_initial"] - 2 == 0
