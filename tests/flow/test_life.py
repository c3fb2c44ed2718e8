"""What is kept alive, what is dropped, and what watchers are told."""

from __future__ import annotations

from typing import Any

import pytest

from lateen.flow import Changes, Graph, Input, Read


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def numbers(graph: Graph) -> Input[int, int]:
    numbers: Input[int, int] = graph.input("numbers")
    return numbers


def layers(graph: Graph, numbers: Input[int, int]) -> tuple[Any, Any]:
    low = graph.derive("low", lambda read, key: (read.get(numbers, key) or 0) * 10)
    high = graph.derive("high", lambda read, key: read.get(low, key) + read.get(low, key + 1))
    return low, high


def test_peek_keeps_nothing(graph: Graph, numbers: Input[int, int]) -> None:
    _, high = layers(graph, numbers)
    numbers.set(1, 1)
    assert high.peek(1) == 10
    assert graph.stats.held == {"numbers": 1}


def test_live_is_counted_and_the_last_release_drops_what_only_it_read(graph: Graph, numbers: Input[int, int]) -> None:
    low, high = layers(graph, numbers)
    numbers.set(1, 1)
    high.live(1)
    high.live(1)
    low.live(2)
    assert graph.stats.held == {"numbers": 2, "low": 2, "high": 1}
    high.release(1)
    assert graph.stats.held["high"] == 1
    high.release(1)
    assert graph.stats.held == {"numbers": 2, "low": 1}
    low.release(2)
    assert graph.stats.held == {"numbers": 1}


def test_live_values_are_not_computed_again(graph: Graph, numbers: Input[int, int]) -> None:
    low, high = layers(graph, numbers)
    high.live(1)
    graph.stats.reset()
    high.live(1)
    high.peek(1)
    low.peek(2)
    assert graph.stats.recomputed == {}


def test_keys_that_come_and_go_leave_nothing(graph: Graph, numbers: Input[int, int]) -> None:
    index = graph.index("index", numbers, lambda key, value: [value])
    table = graph.table("table", numbers, lambda read, key, value: [((key, value), read.lookup(index, value))])
    output = graph.derive(
        "output", lambda read, key: [read.get(table, (name, key)) for name in read.lookup(index, key)]
    )
    output.live(7)
    for round_ in range(50):
        with graph.batch():
            numbers.set(round_, round_ % 10)
            numbers.set(-round_, 7)
        with graph.batch():
            numbers.delete(round_)
            numbers.delete(-round_)
    assert graph.stats.held == {"index": 1, "output": 1}  # the live one, and the index key it looks at
    output.release(7)
    assert graph.stats.held == {}


def test_a_released_output_is_not_run_in_the_same_batch(graph: Graph, numbers: Input[int, int]) -> None:
    low, _ = layers(graph, numbers)
    low.live(1)
    told: list[Any] = []
    graph.on_change(low, told.append)
    graph.stats.reset()
    with graph.batch():
        numbers.set(1, 5)
        low.release(1)
    assert graph.stats.recomputed == {}
    assert told == []
    assert graph.stats.held == {"numbers": 1}


def test_a_change_that_was_released_before_the_end_of_the_batch_is_not_told(
    graph: Graph, numbers: Input[int, int]
) -> None:
    low, _ = layers(graph, numbers)
    low.live(1)
    told: list[Any] = []
    graph.on_change(low, told.append)
    with graph.batch():
        numbers.set(1, 5)
        assert low.peek(1) == 50
        low.release(1)
    assert told == []


def test_a_long_chain_is_dropped_without_recursion(graph: Graph, numbers: Input[int, int]) -> None:
    def _count(read: Read, key: int) -> int:
        return (read.get(numbers, 0) or 0) + (read.get(count, key - 1) if key else 0)

    count: Any = graph.derive("count", _count)
    for key in range(3000):
        count.live(key)
    for key in range(2999):
        count.release(key)
    assert graph.stats.held == {"numbers": 1, "count": 3000}
    count.release(2999)
    assert graph.stats.held == {}


def test_watchers_hear_of_live_keys_that_changed_in_order(graph: Graph, numbers: Input[int, int]) -> None:
    low, high = layers(graph, numbers)
    told: list[Any] = []
    graph.on_change(low, lambda changes: told.append(("low", changes)))
    graph.on_change(high, lambda changes: told.append(("high", changes)))
    for key in (3, 1, 2):
        low.live(key)
    high.live(2)
    with graph.batch():
        numbers.set(3, 3)
        numbers.set(1, 1)
        numbers.set(9, 9)
    assert told == [("low", [(1, 0, 10), (3, 0, 30)]), ("high", [(2, 0, 30)])]


def test_watch_hears_of_the_whole_batch_at_once(graph: Graph, numbers: Input[int, int]) -> None:
    _, high = layers(graph, numbers)
    odd = graph.index("odd", numbers, lambda key, value: [value % 2 == 1])
    inverse = graph.derive("inverse", lambda read, key: 1 // (read.get(numbers, key) or 0))
    heard: list[Changes] = []
    graph.watch(heard.append)
    high.live(1)
    odd.live(True)
    numbers.set(1, 1)
    inverse.live(1)
    with graph.batch():
        numbers.set(1, 0)
        numbers.set(2, 3)
        numbers.set(7, 2)
    assert len(heard) == 2
    assert heard[1].outputs == {high: [(1, 10, 30)]}
    assert heard[1].indexes == {odd: [(True, (2,), (1,))]}
    assert [(where, key, type(error)) for where, key, error in heard[1].errors] == [(inverse, 1, ZeroDivisionError)]
    numbers.set(8, 8)
    assert len(heard) == 2  # nothing live has changed


def test_what_a_callback_sets_is_the_next_batch(graph: Graph, numbers: Input[int, int]) -> None:
    low, _ = layers(graph, numbers)
    told: list[Any] = []

    def follow(changes: list[tuple[int, int | None, int]]) -> None:
        told.append(changes)
        if numbers.get(1) == 1:
            with graph.batch():
                numbers.set(1, 2)
                numbers.set(2, 2)
            assert low.live(3) == 0

    graph.on_change(low, follow)
    low.live(1)
    low.live(2)
    numbers.set(1, 1)
    assert told == [[(1, 0, 10)], [(1, 10, 20), (2, 0, 20)]]


def test_a_callback_that_raises_does_not_keep_others_from_hearing(graph: Graph, numbers: Input[int, int]) -> None:
    low, _ = layers(graph, numbers)
    low.live(1)
    told: list[Any] = []

    def fail(changes: object) -> None:
        raise OSError("gone")

    graph.on_change(low, fail)
    graph.on_change(low, told.append)
    with pytest.raises(OSError, match="gone"):
        numbers.set(1, 1)
    assert told == [[(1, 0, 10)]]
    graph.watch(fail)
    with pytest.raises(ExceptionGroup) as caught:
        numbers.set(1, 2)
    assert len(caught.value.exceptions) == 2
    assert told[1:] == [[(1, 10, 20)]]
    assert low.peek(1) == 20


def test_keys_without_an_order_are_told_to_be_a_mistake(graph: Graph) -> None:
    rows: Input[Any, int] = graph.input("rows")
    copy = graph.derive("copy", lambda read, key: read.get(rows, key))
    other = graph.derive("other", lambda read, key: read.get(rows, "x"))
    for key in (None, "x"):
        copy.live(key)
    other.live(1)
    told: list[Any] = []
    graph.on_change(other, told.append)

    def change() -> None:
        with graph.batch():
            rows.set(None, 1)
            rows.set("x", 1)

    with pytest.raises(TypeError) as caught:
        change()
    assert caught.value.__notes__ == ["sorting what changed in Derived('copy'): its keys need a total order"]
    assert told == [[(1, None, 1)]]


def test_a_memo_is_small(graph: Graph, numbers: Input[int, int]) -> None:
    """100,000 of them are meant to fit beside everything else; edges of one reader cost no container."""
    low, high = layers(graph, numbers)
    high.live(1)
    memo = low.memos[1]
    assert not hasattr(memo, "__dict__")
    assert memo.dependents is high.memos[1]
    assert not hasattr(numbers.cells[1], "__dict__")
