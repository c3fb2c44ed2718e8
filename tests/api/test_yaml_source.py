"""YAML to plain values: what is read, on which line, and what is refused before it costs anything."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lateen.api.places import Lines, join_path, nearest_line
from lateen.api.yaml_source import MAX_DEPTH, MAX_FAULTS, MAX_FILE_BYTES, MAX_KEYS, MAX_VALUES, parse_yaml


def read(text: str) -> Any:
    documents, faults = parse_yaml(text.encode())
    assert faults == ()
    (document,) = documents
    return document.value


def fault(data: str | bytes) -> tuple[int, str, str]:
    _, faults = parse_yaml(data.encode() if isinstance(data, str) else data)
    assert len(faults) == 1
    return faults[0].line, faults[0].path, faults[0].message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("+7", 7),
        ("0", 0),
        ("0644", 420),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("12345678901234567890123", 12345678901234567890123.0),
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("off", False),
        ("NO", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("y", "y"),
        ("yEs", "yEs"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("! yes", "yes"),
        ('!!int "1"', 1),
        ("!!float 1", 1),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1.2.3.4", "1.2.3.4"),
        ("10s", "10s"),
        ("-", [None]),
        ("09", 9.0),
        ("=", "="),
    ],
)
def test_what_a_scalar_stands_for(text: str, value: Any) -> None:
    assert read(f"a: {text}" if text != "-" else "a:\n-") == {"a": value}


def test_a_key_is_always_text() -> None:
    assert read("on: 1\n8080: 2\nnull: 3\n'': 4") == {"on": 1, "8080": 2, "null": 3, "": 4}


def test_documents_come_one_by_one_and_empty_ones_not_at_all() -> None:
    documents, faults = parse_yaml(b"---\n---\na: 1\n--- ~\n---\n# nothing\n---\n- b\n...\n")
    assert [(document.value, document.line) for document in documents] == [({"a": 1}, 3), (["b"], 8)]
    assert faults == ()
    for empty in (b"", b"\n\n", b"# only a comment\n", b"---\n", "\ufeff".encode()):
        assert parse_yaml(empty) == ((), ())


def test_json_is_read() -> None:
    assert read('{"a": [1, {"b": "c\\n"}],\n\t"d": null}') == {"a": [1, {"b": "c\n"}], "d": None}


LINES = """\
a:
  b: 1
  c:
  - x
  -
    y: 2
  'app.test/n': 3
"8080": {p: 1,
  q: [1,
    2]}
"""


def test_every_field_has_its_line() -> None:
    (document,), _ = parse_yaml(LINES.encode())
    lines = Lines(document.tree)
    assert dict(lines) == {
        "a": 1,
        "a.b": 2,
        "a.c": 3,
        "a.c[0]": 4,
        "a.c[1]": 6,
        "a.c[1].y": 6,
        "a[app.test/n]": 7,
        "[8080]": 8,
        "[8080].p": 8,
        "[8080].q": 9,
        "[8080].q[0]": 9,
        "[8080].q[1]": 10,
    }
    assert len(lines) == 12
    for missing in ("a.z", "a.c[2]", "a.c[-1]", "a.b.c", "a.c.y", "a["):
        assert missing not in lines
    assert nearest_line(lines, "a.c[1].z.w", 99) == 6
    assert nearest_line(lines, "a[app.test/m]", 99) == 1
    assert nearest_line(lines, "zzz", 99) == 99


@given(st.lists(st.text() | st.text(alphabet='a[]."'), min_size=1, max_size=4))
def test_every_path_leads_to_its_line(keys: list[str]) -> None:
    tree: Any = 7
    path = ""
    for key in reversed(keys):
        tree = (1, {key: tree})
    for key in keys:
        path = join_path(path, key)
    assert Lines(tree)[path] == 7
    assert nearest_line(Lines(tree), f"{path}.below", 3) == 7


def test_anchors_aliases_and_merge_keys() -> None:
    text = """
base: &base
  a: 1
  b: {c: &c [2]}
other: &other {a: 9, z: 3}
one: *base
two:
  <<: *base
  a: 5
three:
  <<: [*base, *other]
  d: *c
four: {<<: {q: 1}, "<<": 7}
"""
    value = read(text)
    assert value["one"] == {"a": 1, "b": {"c": [2]}}
    assert value["two"] == {"a": 5, "b": {"c": [2]}}
    assert value["three"] == {"a": 1, "b": {"c": [2]}, "z": 3, "d": [2]}
    assert value["four"] == {"q": 1, "<<": 7}
    (document,), _ = parse_yaml(text.encode())
    lines = Lines(document.tree)
    # Used where the alias stands, written where the anchor does.
    assert (lines["one"], lines["one.b"], lines["two.a"], lines["two.b"], lines["three.z"]) == (6, 4, 9, 4, 5)


@pytest.mark.parametrize(
    ("text", "line", "path", "message"),
    [
        pytest.param("a: [1, 2\nb: 3\n", 2, "", "is not YAML: did not find expected ',' or ']'", id="half-written"),
        pytest.param("a: 1\nb\n\n", 2, "", "is not YAML: could not find expected ':'", id="no-colon"),
        pytest.param("a:\n\tb: 1\n", 2, "", "is not YAML: found character that cannot start any token", id="tab"),
        pytest.param("a:\n  b: 1\n c: 2\n", 3, "", "is not YAML: did not find expected key", id="indentation"),
        pytest.param('a: "x\n', 1, "", "is not YAML: found unexpected end of stream", id="open-quote"),
        pytest.param("a: \x01\n", 1, "", "is not YAML: control characters are not allowed", id="control"),
        pytest.param(b"a: 1\nb: \xff\n", 2, "", "is not UTF-8 text: byte 0xff at offset 8", id="not-utf8"),
        pytest.param("a: 1\nb: {c: 2,\n  c: 3}\n", 3, "b.c", "is given twice, first on line 2", id="double"),
        pytest.param("a:\n- 1\n- *x\n", 3, "a[1]", "alias *x has no anchor &x before it", id="no-anchor"),
        pytest.param("a: &x\n  b: [*x]\n", 2, "a.b[0]", "alias *x stands inside its own anchor", id="circle"),
        pytest.param("? [a]\n: 1\n", 1, "", "a key must be text, not a list or a map", id="list-key"),
        pytest.param("a: &x [1]\n*x : 1\n", 2, "", "a key must be text, not a list or a map", id="alias-key"),
        pytest.param("a: {<<: 3}\n", 1, "a", "<< wants a map or a list of maps", id="merge-of-scalar"),
        pytest.param("a: !!python/name:os.system x\n", 1, "a", "tag tag:yaml.org,2002:python/name", id="tag"),
        pytest.param("a: !foo {b: 1}\n", 1, "a", "tag !foo is not read", id="map-tag"),
        pytest.param("a: !!int x\n", 1, "a", "tag tag:yaml.org,2002:int does not fit its value", id="wrong-tag"),
    ],
)
def test_what_is_wrong_and_where(text: str | bytes, line: int, path: str, message: str) -> None:
    told = fault(text)
    assert told[:2] == (line, path)
    assert told[2].startswith(message)


def test_what_came_before_a_fault_is_kept() -> None:
    documents, faults = parse_yaml(b"a: 1\n---\nb: [\n")
    assert [document.value for document in documents] == [{"a": 1}]
    assert len(faults) == 1


# ---------------------------------------------------------------- limits, by counting what is done, not by the clock


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events the reader took."""
    taken = [0]

    class Counted(yaml.CSafeLoader):
        def get_event(self) -> Any:
            taken[0] += 1
            return super().get_event()

    monkeypatch.setattr(yaml, "CSafeLoader", Counted)
    return taken


def test_a_large_file_is_refused_without_being_read(events: list[int]) -> None:
    line, _, message = fault(b"a: 1\n" * 10_000_000)
    assert line == 1
    assert message == f"file is too large: 50000000 bytes or more, at most {MAX_FILE_BYTES} are read"
    assert events == [0]


def test_a_file_at_the_limit_is_read() -> None:
    data = b"a: " + b"x" * (MAX_FILE_BYTES - 3)
    assert parse_yaml(data)[1] == ()
    assert len(parse_yaml(data + b"x")[1]) == 1


def test_an_alias_bomb_is_refused_by_arithmetic(events: list[int]) -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    line, _, message = fault(bomb)
    assert line == 6
    assert message == f"file has too many values: more than {MAX_VALUES}, aliases counted as often as used"
    assert events[0] < 200


def test_a_bomb_of_merge_keys_is_refused_too(events: list[int]) -> None:
    bomb = "a0: &a0 {" + ", ".join(f"k{i}: x" for i in range(9)) + "}\n"
    bomb += "".join(
        f"a{i}: &a{i} {{" + ", ".join(f"k{j}: {{<<: *a{i - 1}}}" for j in range(9)) + "}\n" for i in range(1, 40)
    )
    assert "too many values" in fault(bomb)[2]
    assert events[0] < 500


@pytest.mark.parametrize("text", ["[" * 1_000_000, "- " * 1_000_000, "{a: " * 500_000])
def test_depth_is_refused_early(text: str, events: list[int]) -> None:
    assert fault(text)[2] == f"is nested too deep: more than {MAX_DEPTH} maps and lists in each other"
    assert events[0] < 3 * MAX_DEPTH


def test_depth_counts_what_aliases_stand_for() -> None:
    half = MAX_DEPTH // 2
    deep = f"a: &a {'[' * half}{']' * half}\nb: {'[' * half}*a{']' * half}\n"
    assert "nested too deep" in fault(deep)[2]


def test_keys_values_and_faults_have_limits(events: list[int]) -> None:
    assert (
        fault("{" + ",".join(f"k{i}: 1" for i in range(MAX_KEYS + 5)) + "}")[2]
        == f"a map has more than {MAX_KEYS} keys"
    )
    assert "too many values" in fault("- a\n" * (MAX_VALUES + 5))[2]
    _, faults = parse_yaml(b"{" + b"a: 1, " * 5000 + b"}")
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1].message == f"file has too many faults: {MAX_FAULTS} are told"


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    parse_yaml(data)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#,?<~ \n\t0", max_size=80))
def test_no_text_makes_it_raise(text: str) -> None:
    for document in parse_yaml(text.encode())[0]:
        dict(Lines(document.tree))
