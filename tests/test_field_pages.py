"""The pages in docs/api name every field of every resource, say what it does, and name the test that proves it.

The form: on `docs/api/<Kind>.md` (or, for structs that several kinds share, on any page beside it) a section headed by
the struct's name, with a table `| field | what it does | proof |` that has one row for each of its fields, spelt as in
YAML. A proof names, in backticks, what is there to be run:

    `cases/<folder>/<name>`            a traffic case, tests/cases/<folder>/<name>.yaml
    `golden/<kind>/<name>`             a golden case of translation
    `tests/<path>.py::<test>`          a test; `::<test>[<id>]` one case of it
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest

from lateen.api.kinds import kind_info

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "api"
HEADER = "| field | what it does | proof |"
PROOF = re.compile(r"`((?:cases|golden)/[\w./-]+|tests/[\w/]+\.py::\w+(?:\[[^]`]*\])?)`")

# Kinds whose fields are written down in this form.
KINDS: tuple[str, ...] = (
    "AuthorizationPolicy",
    "DestinationRule",
    "EnvoyFilter",
    "Gateway",
    "MeshNetworks",
    "PeerAuthentication",
    "ProxyConfig",
    "RequestAuthentication",
    "Rule",
    "Secret",
    "Service",
    "ServiceEntry",
    "Sidecar",
    "Telemetry",
    "VirtualService",
    "WorkloadEntry",
    "WorkloadGroup",
)


def _sections() -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """Yield (page, struct, field -> its other cells) for each section with a table of fields."""
    for page in sorted(PAGES.glob("*.md")):
        heading, rows = "", None
        for line in page.read_text().splitlines():
            if line.startswith("#"):
                if rows is not None:
                    yield page.name, heading, rows
                heading, rows = line.lstrip("# ").strip(), None
            elif line == HEADER:
                rows = {}
            elif rows is not None and line.startswith("| `"):
                # A bar inside a cell is written `\|`.
                cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
                rows[cells[0].strip("`")] = cells[1:]
        if rows is not None:
            yield page.name, heading, rows


SECTIONS = list(_sections())


def _structs(kind: Any, seen: dict[str, type[msgspec.Struct]]) -> None:
    """Gather every struct that a value of this type can hold, by its name."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind.__name__ in seen:
            assert seen[kind.__name__] is kind, f"two structs are named {kind.__name__}"
            return
        seen[kind.__name__] = kind
        for field in msgspec.structs.fields(kind):
            _structs(field.type, seen)
    elif get_origin(kind) in (Union, types.UnionType) or get_args(kind):
        for part in get_args(kind):
            _structs(part, seen)


def _structs_of(kind: str) -> dict[str, type[msgspec.Struct]]:
    info = kind_info(kind)
    assert info is not None
    seen: dict[str, type[msgspec.Struct]] = {}
    _structs(info.spec, seen)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_its_row(kind: str) -> None:
    missing = [
        f"{name}.{field.encode_name}"
        for name, struct in _structs_of(kind).items()
        for field in msgspec.structs.fields(struct)
        if field.encode_name not in _rows_of(kind, name)
    ]
    assert missing == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_is_of_a_field_that_does_not_exist(kind: str) -> None:
    wrong = [
        f"{name}.{field}"
        for name, struct in _structs_of(kind).items()
        for field in _rows_of(kind, name)
        if field not in {known.encode_name for known in msgspec.structs.fields(struct)}
    ]
    assert wrong == []


def _rows_of(kind: str, struct: str) -> dict[str, list[str]]:
    """Return the rows of a struct: those on the kind's own page, else those of the page that has it for all."""
    found = {page: rows for page, name, rows in SECTIONS if name == struct}
    return found.get(f"{kind}.md") or next(iter(found.values()), {})


def test_a_page_has_a_struct_once() -> None:
    names = [(page, struct) for page, struct, _ in SECTIONS]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize(("page", "struct", "rows"), SECTIONS, ids=[f"{page}:{name}" for page, name, _ in SECTIONS])
def test_every_row_says_what_it_does_and_names_a_proof_thatproof_exists(
    page: str, struct: str, rows: dict[str, list[str]]
) -> None:
    wrong = []
    for field, cells in rows.items():
        proofs = PROOF.findall(cells[1]) if len(cells) == 2 else []
        if len(cells) != 2 or not cells[0] or not proofs:
            wrong.append(f"{field}: wanted are an effect and a proof")
        wrong.extend(f"{field}: there is no {proof}" for proof in proofs if not proof_exists(proof))
    assert wrong == [], f"{page}, {struct}"


def proof_exists(proof: str) -> bool:
    if proof.startswith("cases/"):
        return (ROOT / "tests" / f"{proof}.yaml").is_file()
    if proof.startswith("golden/"):
        return (ROOT / "tests/pilot/translate" / f"{proof}.yaml").is_file()
    path, _, test = proof.partition("::")
    name, _, case = test.rstrip("]").partition("[")
    file = ROOT / path
    if not file.is_file():
        return False
    text = file.read_text()
    return re.search(rf"def {name}\(", text) is not None and (not case or case in text)
