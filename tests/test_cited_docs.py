"""What the code cites is there, and the pages on resources say what the code says is not acted on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lateen.pilot.model.support import STORED_ONLY, UNTAKEN_FIELDS

ROOT = Path(__file__).parent.parent
CITED = re.compile(r"\bdocs/[A-Za-z0-9/-]+\.md")
# A page named after "docs/api/x.md" in the same sentence, as in "docs/api/a.md, b.md and c.md".
BESIDE = re.compile(r"\bdocs/api/[A-Za-z-]+\.md((?:(?:,| and) [A-Za-z-]+\.md)+)")


def _cited() -> dict[str, str]:
    found: dict[str, str] = {}
    for source in sorted(ROOT.glob("src/**/*.py")):
        text = source.read_text()
        pages = CITED.findall(text)
        for names in BESIDE.findall(text):
            pages.extend(f"docs/api/{name}" for name in re.findall(r"[A-Za-z-]+\.md", names))
        found.update({page: str(source.relative_to(ROOT)) for page in pages})
    return found


@pytest.mark.parametrize(("page", "source"), sorted(_cited().items()), ids=sorted(_cited()))
def test_a_cited_page_exists(page: str, source: str) -> None:
    assert (ROOT / page).is_file(), f"{source} cites it"


def _page_of(kind: str) -> Path:
    return ROOT / "docs" / "api" / f"{kind}.md"


@pytest.mark.parametrize("kind", sorted(UNTAKEN_FIELDS))
def test_a_page_lists_what_is_not_acted_on(kind: str) -> None:
    _, heading, listed = _page_of(kind).read_text().partition("## Not acted on yet")
    assert heading
    # Policies stand at four levels; the page names what is below them once.
    below = re.compile(r"^(?:trafficPolicy|subsets\[\]\.trafficPolicy)(?:\.portLevelSettings\[\])?\.")
    wanted = {below.sub("", path) if kind == "DestinationRule" else path for path in UNTAKEN_FIELDS[kind]}
    assert sorted(path for path in wanted if f"`{path}`" not in listed) == []


@pytest.mark.parametrize("kind", sorted(kind for kind in STORED_ONLY if _page_of(kind).is_file()))
def test_a_page_of_a_kind_that_is_only_stored_says_so(kind: str) -> None:
    assert STORED_ONLY[kind] in " ".join(_page_of(kind).read_text().split())
