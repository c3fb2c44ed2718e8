"""Lines of access logs: their times, their order, and what a terminal is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.observe.loglines import Line, merge_lines, moment_of, printable, whole_lines

MOMENT = 1_700_000_000.125


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        pytest.param('[2023-11-14T22:13:20.125Z] "GET / HTTP/1.1" 200 - via_upstream', MOMENT, id="Istio's text"),
        pytest.param('{"a":"[","start_time":"2023-11-14T22:13:20.125Z","b":1}', MOMENT, id="Istio's JSON"),
        pytest.param('{"start_time": "2023-11-14T22:13:20.125Z"}', MOMENT, id="with blanks"),
        pytest.param("2023-11-14T22:13:20.125000Z\twarning\tenvoy main", MOMENT, id="Envoy's own"),
        pytest.param("web [2023-11-14T23:13:20.125+01:00] 200", MOMENT, id="later, of another zone"),
        pytest.param("GET / 200", None, id="none"),
        pytest.param("[2023-99-14T22:13:20.125Z]", None, id="no such day"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_when(text: str, moment: float | None) -> None:
    assert moment_of(text) == moment


def line(text: str) -> bytes:
    return f"[2023-11-14T22:13:{text}Z] x\n".encode()


def test_lines_without_a_time_belong_to_the_one_before() -> None:
    lines, rest = whole_lines("a", line("20.125") + b"more\r\nhalf")
    assert (lines, rest) == ([Line("a", MOMENT, "[2023-11-14T22:13:20.125Z] x"), Line("a", MOMENT, "more")], b"half")
    assert whole_lines("a", b"\xff\n", moment=1.0) == ([Line("a", 1.0, "�")], b"")


def test_lines_of_many_are_one_log() -> None:
    first, _ = whole_lines("a", line("20") + line("30") + line("25"))
    second, _ = whole_lines("b", line("22") + line("31"))
    order = [(one.workload, one.text[18:20]) for one in merge_lines({"a": first, "b": second})]
    # A request that began at 25 and ended after the one of 30 was written after it.
    assert order == [("a", "20"), ("b", "22"), ("a", "30"), ("a", "25"), ("b", "31")]
    assert [one.text[18:20] for one in merge_lines({"a": first, "b": second}, last=2)] == ["25", "31"]
    assert merge_lines({"a": first}, last=0) == []
    since = MOMENT - 0.125 + 5
    assert [one.text[18:20] for one in merge_lines({"a": first, "b": second}, since=since)] == ["30", "25", "31"]


@given(st.lists(st.binary(max_size=80), max_size=8), st.integers(1, 7))
def test_nothing_is_lost_however_it_comes(parts: list[bytes], size: int) -> None:
    data = b"\n".join(parts) + b"\n"
    texts, rest = [], b""
    for start in range(0, len(data), size):
        found, rest = whole_lines("a", rest + data[start : start + size])
        texts += [one.text for one in found]
    assert rest == b""
    assert texts == [one.text for one in whole_lines("a", data)[0]]


def test_a_terminal_is_not_commanded() -> None:
    assert printable("a\tb\33[2J\x9bc") == "a\tb?[2J?c"
