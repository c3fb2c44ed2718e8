"""Every YAML example of the documents can be copied into a mesh's folder and is taken."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lateen.api.decode import decode_documents

ROOT = Path(__file__).parent.parent.parent
# Its examples are files for `lateen up --authority`, and rules for a Kubernetes of somebody else's.
NO_RESOURCES = {"external-authorities.md"}
DOCUMENTS = sorted(path for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if path.name not in NO_RESOURCES)
# Inside a list an example is indented, its fences too.
EXAMPLE = re.compile(r"^( *)```yaml\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def _examples() -> list[Any]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in EXAMPLE.finditer(text):
            place = f"{document.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
            found.append(pytest.param(textwrap.dedent(match[2]), place, id=place))
    return found


@pytest.mark.parametrize(("example", "place"), _examples())
def test_an_example_is_taken(example: str, place: str) -> None:
    decoded = decode_documents(example.encode(), place)
    assert [str(problem) for problem in decoded.problems if problem.level == "error"] == []
    assert decoded.objects, "it holds no resource"
