"""The documents say what is there: links lead somewhere, tables name files, kinds, commands and metrics that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lateen.api.kinds import KINDS
from lateen.cli import COMMANDS, HIDDEN
from lateen.pilot.model.support import STORED_ONLY

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md")])
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
# What stands in backticks and looks like a module or document of this repo, with at least one folder.
PATH = re.compile(
    r"`((?:src/lateen|api|flow|wire|net|pilot|citadel|agent|cli|demo|tests|docs|tools)/[\w./-]+\.(?:py|md|sh))`"
)
KINDS_OF_FRAGMENTS = ("added", "changed", "fixed", "removed", "security")


def _ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def _anchors(document: Path) -> set[str]:
    """Return the names by which headings are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_ids(DOCUMENTS))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", document.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        there = found.exists() and found.is_relative_to(ROOT)
        if not there or (anchor and found.suffix == ".md" and anchor not in _anchors(found)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_ids(DOCUMENTS))
def test_files_that_are_named_exist(document: Path) -> None:
    named = PATH.findall(FENCE.sub("", document.read_text()))
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "src/lateen" / name).exists()]
    assert missing == []


def test_the_map_has_every_folder() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {path.parent.name for path in (ROOT / "src/lateen").glob("*/__init__.py")}
    packages |= {path.parent.name for path in (ROOT / "src/lateen/pilot").glob("*/__init__.py")}
    named = set(re.findall(r"^ +(\w+)/(?: |$)", text, re.MULTILINE))
    assert packages - named == set()
    assert named - packages == set()


def test_every_kind_is_listed_with_what_it_does() -> None:
    rows = [line for line in (ROOT / "docs/api/README.md").read_text().splitlines() if line.startswith("| ")]
    acts = {kind: line for line in rows for kind in line.split("|")[1].strip().split(", ") if kind in KINDS}
    assert set(acts) == set(KINDS)
    for kind in KINDS:
        assert ("stored only" in acts[kind]) == (kind in STORED_ONLY), kind


def test_design_decisions_are_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    missing = [path.name for path in sorted((ROOT / "docs/design").glob("*.md")) if f"design/{path.name}" not in index]
    assert missing == []


def test_commands_that_documents_show_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    used = set(re.findall(r"(?:^\$ |`)lateen ([a-z-]+)", text, re.MULTILINE))
    assert used - COMMANDS.keys() == set()
    assert used >= COMMANDS.keys() - HIDDEN - {"version"}


def test_make_targets_that_documents_show_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^\$ |`)make ([a-z0-9]+)", text, re.MULTILINE)) - targets == set()


def test_dependencies_have_a_reason_each() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[><=\[; ]", requirement)[0] for requirement in wanted}
    told = set(re.findall(r"`([\w-]+)`", (ROOT / "docs/dependencies.md").read_text()))
    assert names - told == set()


def test_fragments_are_named_as_they_must() -> None:
    names = [path.name for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    wrong = [name for name in names if not re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(KINDS_OF_FRAGMENTS)})\.md", name)]
    assert wrong == []


def test_what_is_written_down_is_tracked() -> None:
    inside = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], cwd=ROOT, capture_output=True, check=False)
    if inside.returncode != 0:
        pytest.skip("not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "LICENSE"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = set(listed.stdout.split())
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"} <= tracked
