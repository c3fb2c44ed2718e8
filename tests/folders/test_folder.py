"""A folder of YAML: the last good state of each file, whoever else is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from lateen.api.decode import decode_documents
from lateen.folders.folder import Change, Folder
from lateen.folders.watch import read_changes, scan
from lateen.pilot.sources.last_good import LastGood


def service(name: str, port: int = 80) -> bytes:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n".encode()


def told(changes: list[Change]) -> list[tuple[str, int | None]]:
    return [(change.key.name, change.obj.spec.ports[0].port if change.obj else None) for change in changes]


@pytest.fixture
def folder() -> Folder:
    return Folder(decode_documents)


def test_files_come_change_and_go(folder: Folder) -> None:
    assert told(folder.write({"a.yaml": service("a"), "b.yaml": service("b")})) == [("a", 80), ("b", 80)]
    assert told(folder.write({"a.yaml": service("a", 81)})) == [("a", 81)]
    assert told(folder.write({"a.yaml": None})) == [("a", None)]
    assert folder.files == {"b.yaml"}


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"kind: [", id="syntax"),
        pytest.param(service("a", 81) + b"extra: 1\n", id="unknown field"),
        pytest.param(service("a", 81).replace(b"81", b"many"), id="wrong type"),
        pytest.param(service("a", 81) + b"---\n" + service("a", 82), id="one name twice"),
        pytest.param(
            b"a: &a [x,x]\nb: &b [*a,*a]\n" + b"".join(b"c%d: &c%d [*b,*b]\n" % (i, i) for i in range(9)),
            id="no resource",
        ),
    ],
)
def test_a_broken_file_keeps_its_last_good_state(folder: Folder, broken: bytes) -> None:
    folder.write({"a.yaml": service("a"), "b.yaml": service("b")})
    assert folder.write({"a.yaml": broken, "b.yaml": service("b", 90)})[0].key.name == "b"
    problems = folder.problems()
    assert problems
    assert {problem.file for problem in problems} == {"a.yaml"}
    assert all(problem.line >= 1 and problem.message for problem in problems)
    assert folder.write({"a.yaml": service("a")}) == []
    assert folder.problems() == ()


def test_a_file_that_cannot_be_read_keeps_its_last_good_state(folder: Folder) -> None:
    folder.write({"a.yaml": service("a")})
    assert folder.write({"a.yaml": PermissionError(13, "Permission denied")}) == []
    assert "Permission denied" in folder.problems()[0].message
    assert told(folder.write({"a.yaml": service("a", 81)})) == [("a", 81)]
    assert folder.problems() == ()


def test_of_two_files_with_one_resource_the_first_keeps_it(folder: Folder) -> None:
    folder.write({"b.yaml": service("x", 2)})
    assert told(folder.write({"a.yaml": service("x", 1)})) == [("x", 1)]
    (problem,) = folder.problems()
    assert problem.file == "b.yaml"
    assert "a.yaml:1" in problem.message
    assert folder.write({"b.yaml": service("x", 3)}) == []
    assert told(folder.write({"a.yaml": None})) == [("x", 3)]
    assert folder.problems() == ()


@pytest.mark.parametrize("nothing", [b"", b" \n\n"])
def test_an_emptied_file_keeps_its_last_good_state(folder: Folder, nothing: bytes) -> None:
    folder.write({"a.yaml": service("a")})
    assert folder.write({"a.yaml": nothing}) == []
    assert [(problem.file, problem.line) for problem in folder.problems()] == [("a.yaml", 1)]
    assert "is empty" in folder.problems()[0].message
    assert told(folder.write({"a.yaml": service("a", 81)})) == [("a", 81)]
    assert folder.problems() == ()
    folder.write({"new.yaml": nothing})
    assert [problem.file for problem in folder.problems()] == ["new.yaml"]
    assert folder.write({"new.yaml": None}) == []
    assert folder.problems() == ()


def test_a_file_that_holds_only_a_comment_takes_its_resources_along(folder: Folder) -> None:
    folder.write({"a.yaml": service("a")})
    assert told(folder.write({"a.yaml": b"# nothing for now\n"})) == [("a", None)]
    assert folder.problems() == ()


def test_scanning_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.yaml", "sub/b.yml", ".c.yaml", ".hidden/d.yaml", "notes.txt"):
        (tmp_path / name).write_text("x")
    before = scan(tmp_path)
    assert sorted(Path(path).name for path in before) == ["a.yaml", "b.yml"]
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "sub/b.yml").write_text("other")
    (tmp_path / "e.yaml").symlink_to(tmp_path / "nowhere")
    changes = read_changes(before, scan(tmp_path))
    assert changes[str(tmp_path / "a.yaml")] is None
    assert changes[str(tmp_path / "sub/b.yml")] == b"other"
    assert isinstance(changes[str(tmp_path / "e.yaml")], FileNotFoundError)


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "nowhere")


# ---------------------------------------------------------------- over restarts

SECRET = b"apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {x: topsecret}\n"


@pytest.mark.parametrize("found", [b"kind: [", b"", PermissionError(13, "no")], ids=["broken", "empty", "unreadable"])
def test_a_file_found_broken_holds_what_it_held_before_a_restart(tmp_path: Path, found: bytes | OSError) -> None:
    before = Folder(decode_documents, LastGood(tmp_path / "kept"))
    before.write({"a.yaml": service("a", 1), "b.yaml": service("b", 2)})
    before.write({"a.yaml": service("a", 3)})
    before.write({"a.yaml": b"kind: ["})  # what counts is what was good
    after = Folder(decode_documents, LastGood(tmp_path / "kept"))
    assert told(after.write({"a.yaml": found, "b.yaml": service("b", 4)})) == [("a", 3), ("b", 4)]
    assert {problem.file for problem in after.problems()} == {"a.yaml"}
    assert told(after.write({"a.yaml": service("a", 5)})) == [("a", 5)]
    assert after.problems() == ()
    assert told(after.write({"a.yaml": None})) == [("a", None)]
    again = Folder(decode_documents, LastGood(tmp_path / "kept"))
    assert told(again.write({"a.yaml": b"kind: [", "b.yaml": b"kind: ["})) == [("b", 4)]


def test_a_file_that_went_while_nobody_looked_is_forgotten(tmp_path: Path) -> None:
    Folder(decode_documents, LastGood(tmp_path)).write({"a.yaml": service("a"), "b.yaml": service("b")})
    kept = LastGood(tmp_path)
    kept.only(["b.yaml"])
    assert (kept.get("a.yaml"), kept.get("b.yaml")) == (None, service("b"))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        SECRET.replace(b"Secret", b'"\\x53ecret"'),
        b"apiVersion: v1\nkind: List\nitems:\n- " + SECRET.replace(b"\n", b"\n  ").rstrip() + b"\n",
        SECRET.replace(b"\n", b"\r\n"),
    ],
    ids=["plain", "escaped", "in a list", "crlf"],
)
def test_secrets_are_not_copied_and_take_nothing_with_them(tmp_path: Path, secret: bytes) -> None:
    folder = Folder(decode_documents, LastGood(tmp_path))
    folder.write({"a.yaml": service("a")})
    folder.write({"a.yaml": secret})
    assert list(tmp_path.iterdir()) == []  # nor is what it held before: that is not its last good state
    for whole in (
        service("a", 1) + b"---\n" + secret + b"--- # more\n" + service("b", 2),
        b"---\n" + secret + b"---\n" + service("a", 1) + b"---\n" + service("b", 2),
    ):
        folder.write({"a.yaml": whole})
        (copy,) = tmp_path.iterdir()
        assert b"topsecret" not in copy.read_bytes()
        after = Folder(decode_documents, LastGood(tmp_path))
        changes = after.write({"a.yaml": b"kind: ["})
        assert told(changes) == [("a", 1), ("b", 2)]
        lines = {change.key.name: change.obj.origin.line for change in changes if change.obj is not None}
        assert lines == {
            obj.key.name: obj.origin.line for obj in decode_documents(whole, "").objects if obj.key.name in "ab"
        }


def test_copies_are_private_and_half_of_one_is_none(tmp_path: Path) -> None:
    Folder(decode_documents, LastGood(tmp_path / "kept")).write({"a.yaml": service("a")})
    (copy,) = (tmp_path / "kept").iterdir()
    assert (copy.stat().st_mode & 0o777, copy.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    copy.write_bytes(service("a")[:-20])
    assert told(Folder(decode_documents, LastGood(tmp_path / "kept")).write({"a.yaml": b"kind: ["})) == []


def test_what_cannot_be_kept_is_told_and_acts_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("in the way")
    with structlog.testing.capture_logs() as logs:
        assert told(Folder(decode_documents, LastGood(tmp_path / "kept" / "x")).write({"a.yaml": service("a")})) == [
            ("a", 80)
        ]
    assert [line["event"] for line in logs] == ["last good state not kept"]
