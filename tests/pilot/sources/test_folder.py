"""A folder of YAML: the last good state of each file, whoever else is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lateen.api.decode import decode_documents
from lateen.pilot.sources.folder import Change, Folder
from lateen.pilot.sources.watch import read_changes, scan


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
