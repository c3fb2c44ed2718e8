"""Functions that raise, circle, or break the rules: each hurts itself alone, and is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lateen.flow import CycleError, Graph, Input, MisuseError, Read


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def numbers(graph: Graph) -> Input[str, int]:
    numbers: Input[str, int] = graph.input("numbers")
    return numbers


def inverse(graph: Graph, numbers: Input[str, int]) -> Any:
    return graph.derive("inverse", lambda read, key: 1 / (read.get(numbers, key) or 0))


def test_a_failing_output_keeps_its_value_and_the_others_go_on(graph: Graph, numbers: Input[str, int]) -> None:
    output = inverse(graph, numbers)
    told: list[Any] = []
    changed: list[Any] = []
    graph.on_error(told.append)
    graph.on_change(output, changed.append)
    numbers.set("a", 2)
    numbers.set("b", 2)
    output.live("a")
    output.live("b")
    with graph.batch():
        numbers.set("a", 0)
        numbers.set("b", 4)
    assert (output.peek("a"), output.peek("b")) == (0.5, 0.25)
    assert changed == [[("b", 0.5, 0.25)]]
    assert list(graph.errors) == [(output, "a")]
    (((collection, key, error),),) = told
    assert (collection, key, type(error)) == (output, "a", ZeroDivisionError)
    assert error.__notes__ == ["in inverse('a')"]

    graph.stats.reset()
    numbers.set("b", 5)
    assert graph.stats.recomputed == {"inverse": 1}  # b alone: what "a" read is as it was
    numbers.set("a", 10)
    assert output.peek("a") == 0.1
    assert graph.errors == {}
    assert told[1:] == [[(output, "a", None)]]


def test_failing_again_in_the_same_way_is_not_told_again(graph: Graph, numbers: Input[str, int]) -> None:
    ratio = graph.derive("ratio", lambda read, key: (read.get(numbers, "top") or 0) / (read.get(numbers, key) or 0))
    ratio.live("a", None)
    told: list[Any] = []
    graph.on_error(told.append)
    graph.stats.reset()
    numbers.set("top", 5)
    assert graph.stats.recomputed == {"ratio": 1}
    assert told == []


def test_raising_a_kept_error_again_does_not_lengthen_its_traceback(graph: Graph, numbers: Input[str, int]) -> None:
    output = inverse(graph, numbers)
    output.live("a", None)
    lengths = set()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            output.peek("a")
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1


def test_a_first_failure_is_raised_and_leaves_nothing(graph: Graph, numbers: Input[str, int]) -> None:
    output = inverse(graph, numbers)
    reader = graph.derive("reader", lambda read, key: read.get(output, key))
    told: list[Any] = []
    graph.on_error(told.append)
    for ask in (output.peek, output.live, reader.peek, reader.live):
        with pytest.raises(ZeroDivisionError) as caught:
            ask("a")
        assert caught.value.__notes__ == ["in inverse('a')"]
    assert graph.stats.held == {}
    assert graph.errors == {}
    assert told == []
    with pytest.raises(MisuseError, match=r"inverse\('a'\) is released more often"):
        output.release("a")


def test_with_a_default_a_failure_is_live_too(graph: Graph, numbers: Input[str, int]) -> None:
    output = inverse(graph, numbers)
    reader = graph.derive("reader", lambda read, key: read.get(output, key) * 2)
    changed: list[Any] = []
    graph.on_change(reader, changed.append)
    assert reader.live("a", None) is None
    assert set(graph.errors) == {(output, "a"), (reader, "a")}
    with pytest.raises(ZeroDivisionError):
        reader.peek("a")
    numbers.set("b", 1)
    assert changed == []
    numbers.set("a", 4)
    assert changed == [[("a", None, 0.5)]]
    assert graph.errors == {}
    reader.release("a")
    assert graph.stats.held == {"numbers": 2}


def test_another_error_without_any_value_reaches_its_readers(graph: Graph) -> None:
    texts: Input[str, str] = graph.input("texts")
    number = graph.derive("number", lambda read, key: int(read.get(texts, key) or "nothing"))
    reader = graph.derive("reader", lambda read, key: read.get(number, key))
    reader.live("a", 0)
    told: list[Any] = []
    graph.on_error(told.append)
    for text, message in {"x": "'x'", "y": "'y'"}.items():
        texts.set("a", text)
        assert message in str(graph.errors[reader, "a"])
        assert graph.errors[reader, "a"] is graph.errors[number, "a"]
    assert [len(changes) for changes in told] == [2, 2]
    graph.stats.reset()
    texts.set("b", "x")
    assert graph.stats.recomputed == {}


def test_a_reader_may_handle_the_failure(graph: Graph, numbers: Input[str, int]) -> None:
    output = inverse(graph, numbers)

    def _safe(read: Read, key: str) -> Any:
        try:
            return read.get(output, key)
        except ZeroDivisionError:
            return "infinite"

    safe = graph.derive("safe", _safe)
    assert safe.live("a") == "infinite"
    numbers.set("a", 2)
    assert safe.peek("a") == 0.5


def test_a_failing_table_row_keeps_what_it_yielded(graph: Graph, numbers: Input[str, int]) -> None:
    table = graph.table("table", numbers, lambda read, key, value: [(key, 6 // value)])
    with graph.batch():
        numbers.set("a", 2)
        numbers.set("b", 0)
        numbers.set("c", 3)
    assert table.items() == [("a", 3), ("c", 2)]
    assert list(graph.errors) == [(table, "b")]
    numbers.set("a", 0)
    assert table.items() == [("a", 3), ("c", 2)]
    numbers.delete("a")
    numbers.set("b", 6)
    assert table.items() == [("b", 1), ("c", 2)]
    assert graph.errors == {}


def test_a_row_that_an_index_cannot_file_stays_filed_as_it_was(graph: Graph, numbers: Input[str, int]) -> None:
    index = graph.index("index", numbers, lambda key, value: [6 // value])
    with graph.batch():
        numbers.set("a", 2)
        numbers.set("b", 2)
    numbers.set("a", 0)
    assert index.get(3) == ("a", "b")
    assert list(graph.errors) == [(index, "a")]
    numbers.set("a", 1)
    assert (index.get(3), index.get(6)) == (("b",), ("a",))
    numbers.set("a", 0)
    numbers.delete("a")
    assert (index.get(3), index.get(6), graph.errors) == (("b",), (), {})


def chain(graph: Graph) -> tuple[Input[str, str], Any]:
    after: Input[str, str] = graph.input("after")

    def _path(read: Read, key: str) -> str:
        following = read.get(after, key)
        return key if following is None else key + read.get(path, following)

    path = graph.derive("path", _path)
    return after, path


@pytest.mark.parametrize("entry", ["a", "b", "c"])
def test_a_circle_of_keys_names_its_chain_wherever_it_is_entered(graph: Graph, entry: str) -> None:
    after, path = chain(graph)
    with graph.batch():
        for key, following in {"a": "b", "b": "c", "c": "a", "x": "a"}.items():
            after.set(key, following)
    with pytest.raises(CycleError, match=r"^reads go in a circle: path\('a'\) -> path\('b'\) -> path\('c'\) -> path"):
        path.peek(entry)
    with pytest.raises(CycleError, match=r"path\('c'\) -> path\('a'\)\n"):
        path.peek("x")
    assert graph.stats.held == {"after": 4}


def test_a_circle_that_closes_keeps_values_and_one_that_opens_gives_new_ones(graph: Graph) -> None:
    after, path = chain(graph)
    with graph.batch():
        after.set("a", "b")
        after.set("b", "c")
    for key in "xabc":
        path.live(key)
    after.set("x", "a")
    after.set("c", "a")
    assert [path.peek(key) for key in "xabc"] == ["xabc", "abc", "bc", "c"]
    assert {key for _, key in graph.errors} == {"a", "b", "c"}
    after.set("a", "d")
    assert [path.peek(key) for key in "xabc"] == ["xad", "ad", "bcad", "cad"]
    assert graph.errors == {}
    after.set("d", "d")
    for key in "xabc":
        path.release(key)
    assert graph.stats.held == {"after": 5}
    assert not graph.cyclic


def test_a_circle_that_replaces_another_failure_reaches_its_readers(graph: Graph, numbers: Input[str, int]) -> None:
    def _way(read: Read, key: str) -> int:
        if key == "a":
            raise ValueError(f"after {read.get(way, 'b')}")
        return read.get(way, "a") if read.get(numbers, "circle") else 7

    way: Any = graph.derive("way", _way)
    reader = graph.derive("reader", lambda read, key: read.get(way, key))
    reader.live("a", None)
    assert str(graph.errors[reader, "a"]) == "after 7"
    numbers.set("circle", 1)
    assert str(graph.errors[reader, "a"]) == "reads go in a circle: way('a') -> way('b') -> way('a')"
    numbers.set("circle", 0)
    assert str(graph.errors[reader, "a"]) == "after 7"


def test_swallowing_the_error_does_not_hide_a_circle(graph: Graph) -> None:
    """Its outcome would depend on where the circle was entered."""

    def _odd(read: Read, key: int) -> int:
        try:
            return read.get(odd, (key + 1) % 3)
        except CycleError:
            return key

    odd: Any = graph.derive("odd", _odd)
    with pytest.raises(CycleError):
        odd.peek(0)


def test_collections_that_read_each_other_are_refused(graph: Graph, numbers: Input[str, int]) -> None:
    left: Any = graph.derive("left", lambda read, key: read.get(right, key))
    right: Any = graph.derive("right", lambda read, key: read.get(left, key))
    with pytest.raises(CycleError, match="circle: left -> right -> left; only a derived collection may read itself"):
        left.peek("a")

    table: Any = graph.table("table", numbers, lambda read, key, value: [(key, read.get(total, "all"))])
    total: Any = graph.derive("total", lambda read, key: len(read.keys(table)))
    numbers.set("a", 1)
    assert "table -> total -> table" in str(graph.errors[table, "a"])
    own: Any = graph.table("own", numbers, lambda read, key, value: [(key, read.get(own, "b"))])
    numbers.set("b", 1)
    assert str(graph.errors[own, "b"]) == "table 'own' reads itself"


@pytest.mark.parametrize(
    "forbidden",
    [
        pytest.param(lambda g, numbers, other: numbers.set("b", 1), id="set"),
        pytest.param(lambda g, numbers, other: numbers.delete("a"), id="delete"),
        pytest.param(lambda g, numbers, other: numbers.get("a"), id="untracked-get"),
        pytest.param(lambda g, numbers, other: numbers.items(), id="untracked-items"),
        pytest.param(lambda g, numbers, other: other.peek("a"), id="peek"),
        pytest.param(lambda g, numbers, other: other.live("a"), id="live"),
        pytest.param(lambda g, numbers, other: other.release("a"), id="release"),
        pytest.param(lambda g, numbers, other: g.provenance(other, "a"), id="provenance"),
        pytest.param(lambda g, numbers, other: g.batch().__enter__(), id="batch"),
        pytest.param(lambda g, numbers, other: g.input("more"), id="declare"),
    ],
)
def test_a_function_that_does_not_just_read_is_refused(
    graph: Graph, numbers: Input[str, int], forbidden: Callable[..., Any]
) -> None:
    numbers.set("a", 1)
    other = graph.derive("other", lambda read, key: read.get(numbers, key))
    bad = graph.derive("bad", lambda read, key: forbidden(graph, numbers, other))
    with pytest.raises(MisuseError, match=r"while bad\('a'\) is computed"):
        bad.peek("a")
    assert graph.index("index", numbers, lambda key, value: [forbidden(graph, numbers, other)]).get("a") == ()
    assert "while Index('index') is computed" in str(*graph.errors.values())
    numbers.set("c", 3)
    assert [numbers.items(), graph.depth, other.peek("c")] == [[("a", 1), ("c", 3)], 0, 3]


def test_a_read_that_was_kept_is_refused(graph: Graph, numbers: Input[str, int]) -> None:
    kept: list[Read] = []
    keep = graph.derive("keep", lambda read, key: kept.append(read))
    index = graph.index("index", numbers, lambda key, value: [value])
    keep.peek("a")
    for misuse in (
        lambda: kept[0].get(numbers, "a"),
        lambda: kept[0].keys(numbers),
        lambda: kept[0].lookup(index, 1),
    ):
        with pytest.raises(MisuseError, match="outside the function that it was handed to"):
            misuse()


def test_names_are_unique_and_releases_match(graph: Graph, numbers: Input[str, int]) -> None:
    with pytest.raises(MisuseError, match="'numbers' is declared twice"):
        graph.input("numbers")
    index = graph.index("index", numbers, lambda key, value: [value])
    with pytest.raises(MisuseError, match=r"index\(1\) is released more often"):
        index.release(1)


def test_reading_too_deep_fails_that_output_alone(graph: Graph) -> None:
    count: Any = graph.derive("count", lambda read, key: 0 if key == 0 else 1 + read.get(count, key - 1))
    with pytest.raises(RecursionError):
        count.peek(100_000)
    assert graph.stats.held == {}
    assert not graph.stack
    assert count.peek(50) == 50


class Interrupt(BaseException):
    """As KeyboardInterrupt is, at any moment."""


@pytest.mark.parametrize("recursive", [False, True])
def test_an_interrupted_batch_is_finished_by_the_next(graph: Graph, numbers: Input[str, int], recursive: bool) -> None:
    armed = [False]

    def _base(read: Read, key: str) -> int:
        value = read.get(numbers, key) or 0
        if armed.pop():
            raise Interrupt
        armed.append(False)
        return value if key == "a" or not recursive else value + read.get(base, "a")

    base = graph.derive("base", _base)
    top = graph.derive("top", lambda read, key: [read.get(base, "a"), read.get(base, "b")])
    numbers.set("a", 1)
    numbers.set("b", 2)
    top.live("all")
    armed[0] = True

    def change() -> None:
        with graph.batch():
            numbers.set("a", 10)
            numbers.set("b", 20)

    with pytest.raises(Interrupt):
        change()
    armed.append(False)
    changed: list[Any] = []
    graph.on_change(top, changed.append)
    numbers.set("c", 3)
    assert top.peek("all") == [10, 30 if recursive else 20]
    assert len(changed) == 1
