"""Tables and indexes: rows follow their source; what joins and leaves is told at the cost of the change."""

from __future__ import annotations

from itertools import permutations
from typing import Any, ClassVar

import pytest

from lateen.flow import Graph, Input, Read


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def words(graph: Graph) -> Input[int, str]:
    words: Input[int, str] = graph.input("words")
    return words


def test_rows_follow_their_source(graph: Graph, words: Input[int, str]) -> None:
    words.set(1, "sail")
    letters = graph.table("letters", words, lambda read, key, word: ((letter, key) for letter in word))
    assert letters.items() == [("a", 1), ("i", 1), ("l", 1), ("s", 1)]
    words.set(1, "sea")
    assert letters.items() == [("a", 1), ("e", 1), ("s", 1)]
    words.delete(1)
    assert letters.items() == []
    assert letters.get("a") is None
    assert graph.stats.held == {}


def test_a_row_runs_again_when_its_source_or_its_reads_change(graph: Graph, words: Input[int, str]) -> None:
    case: Input[str, bool] = graph.input("case")
    with graph.batch():
        words.set(1, "a")
        words.set(2, "b")
        words.set(3, "C")

    def rows(read: Read, key: int, word: str) -> list[tuple[int, str]]:
        return [(key, word.upper() if word.islower() and read.get(case, "upper") else word)]

    shown = graph.table("shown", words, rows)
    copy = graph.table("copy", shown, lambda read, key, value: [(-key, value)])
    graph.stats.reset()
    words.set(2, "x")
    assert graph.stats.recomputed == {"shown": 1, "copy": 1}
    case.set("upper", True)
    assert graph.stats.recomputed == {"shown": 3, "copy": 3}
    case.set("upper", 1 == 1)
    words.set(3, "D")
    assert copy.items() == [(-3, "D"), (-2, "X"), (-1, "A")]
    assert graph.stats.recomputed == {"shown": 4, "copy": 4}


def test_equal_rows_stop_the_wave(graph: Graph, words: Input[int, str]) -> None:
    words.set(1, "sail")
    size = graph.table("size", words, lambda read, key, word: [(key, len(word))])
    double = graph.table("double", size, lambda read, key, value: [(key, 2 * value)])
    graph.stats.reset()
    words.set(1, "mast")
    assert double.get(1) == 8
    assert graph.stats.recomputed == {"size": 1}


def test_a_row_that_moves_to_another_source_key_has_not_changed(graph: Graph, words: Input[int, str]) -> None:
    words.set(1, "sail")
    table = graph.table("table", words, lambda read, key, word: [(word, len(word))])
    seen = graph.derive("seen", lambda read, key: read.get(table, key))
    assert seen.live("sail") == 4
    graph.stats.reset()
    with graph.batch():
        words.delete(1)
        words.set(2, "sail")
    assert graph.stats.recomputed == {"table": 1}
    assert seen.peek("sail") == 4


@pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
@pytest.mark.parametrize("gone", [1, 2, 3])
def test_the_smallest_source_key_has_a_row_that_several_yield(order: tuple[int, ...], gone: int) -> None:
    graph = Graph()
    words: Input[int, str] = graph.input("words")
    table = graph.table("table", words, lambda read, key, word: [("same", word), (key, word)])
    for key in order:
        words.set(key, f"of {key}")
    assert table.get("same") == "of 1"
    words.set(1, "new")
    words.set(2, "other")
    assert table.get("same") == "new"
    words.delete(gone)
    assert table.get("same") == ("other" if gone == 1 else "new")
    for key in (1, 2, 3):
        words.delete(key)
    assert graph.stats.held == {}


def test_a_source_key_that_no_longer_yields_a_contested_row_gives_way(graph: Graph, words: Input[int, str]) -> None:
    table = graph.table("table", words, lambda read, key, word: [(word[0], word)] if word else [])
    with graph.batch():
        words.set(1, "sail")
        words.set(2, "sea")
    with graph.batch():
        words.set(2, "salt")
        words.set(1, "mast")
    assert table.items() == [("m", "mast"), ("s", "salt")]


def test_the_last_of_one_rows_own_duplicates_stands(graph: Graph, words: Input[int, str]) -> None:
    words.set(1, "ab")
    table = graph.table("table", words, lambda read, key, word: [("x", letter) for letter in word])
    assert table.items() == [("x", "b")]


def test_an_index_follows_a_table(graph: Graph, words: Input[int, str]) -> None:
    table = graph.table("table", words, lambda read, key, word: [((key, n), letter) for n, letter in enumerate(word)])
    index = graph.index("index", table, lambda key, letter: [letter, letter, letter.isalpha()])
    with graph.batch():
        words.set(2, "ab")
        words.set(1, "b-")
    assert index.get("b") == ((1, 0), (2, 1))
    assert index.get(True) == ((1, 0), (2, 0), (2, 1))
    words.delete(2)
    assert (index.get("a"), index.get("b")) == ((), ((1, 0),))
    words.delete(1)
    assert graph.stats.held == {}


def test_an_index_declared_late_holds_what_was_there(graph: Graph, words: Input[int, str]) -> None:
    with graph.batch():
        words.set(1, "b")
        words.set(0, "b")
        assert graph.index("index", words, lambda key, word: [word]).get("b") == (0, 1)


def test_live_index_keys_tell_what_joined_and_left(graph: Graph, words: Input[int, str]) -> None:
    index = graph.index("index", words, lambda key, word: word)
    told: list[Any] = []
    graph.on_index_change(index, told.append)
    words.set(1, "ab")
    assert index.live("a") == (1,)
    assert index.live("b") == (1,)
    with graph.batch():
        words.set(3, "ac")
        words.set(2, "a")
        words.set(1, "b")
        words.set(4, "a")
        words.delete(4)
    assert told == [[("a", (2, 3), (1,))]]
    words.set(5, "c")
    words.set(3, "b")
    assert told[1:] == [[("a", (), (3,)), ("b", (3,), ())]]
    index.release("a")
    words.set(9, "ab")
    assert told[2:] == [[("b", (9,), ())]]


def test_joining_and_leaving_within_a_batch_is_not_told(graph: Graph, words: Input[int, str]) -> None:
    index = graph.index("index", words, lambda key, word: word)
    told: list[Any] = []
    graph.on_index_change(index, told.append)
    words.set(1, "a")
    index.live("a")
    with graph.batch():
        words.set(2, "a")
        words.delete(1)
        assert index.get("a") == (2,)  # applied, so that what follows is another change
        words.delete(2)
        words.set(1, "a")
    assert told == []


def test_released_within_the_batch_nothing_is_told(graph: Graph, words: Input[int, str]) -> None:
    index = graph.index("index", words, lambda key, word: word)
    told: list[Any] = []
    graph.on_index_change(index, told.append)
    index.live("a")
    with graph.batch():
        words.set(1, "a")
        assert index.get("a") == (1,)
        index.release("a")
    assert told == []


class Counted:
    """A key that counts comparisons."""

    compared: ClassVar[int] = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __lt__(self, other: Counted) -> bool:
        Counted.compared += 1
        return self.number < other.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


def test_a_live_delta_costs_the_delta_and_sorting_again_merges(graph: Graph) -> None:
    size = 2000
    rows: Input[Counted, int] = graph.input("rows")
    index = graph.index("index", rows, lambda key, value: ["all"])
    with graph.batch():
        for number in range(size):
            rows.set(Counted(number * 7919 % size), 0)
    told: list[Any] = []
    graph.on_index_change(index, told.append)
    assert [key.number for key in index.live("all")] == list(range(size))
    Counted.compared = 0
    rows.set(Counted(size), 0)
    rows.delete(Counted(5))
    assert told == [[("all", (Counted(size),), ())], [("all", (), (Counted(5),))]]
    assert Counted.compared == 0
    assert len(index.get("all")) == size
    assert Counted.compared < 2 * size  # one run and a tail; sorting afresh would take 20,000
    Counted.compared = 0
    rows.delete(Counted(6))
    assert len(index.get("all")) == size - 1
    assert Counted.compared == 0  # what is in order stays so when one leaves
