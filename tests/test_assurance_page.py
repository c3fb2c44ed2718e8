"""docs/security/assurance.md has each numbered assurance once, and names tests that exist or says why there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.test_field_pages import PROOF, proof_exists

PAGE = Path(__file__).parent.parent / "docs" / "security" / "assurance.md"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
NOT_YET = re.compile(r"Not yet: \w.{15,}")

ROWS = {int(number): (claim, held_by) for number, claim, held_by in ROW.findall(PAGE.read_text())}


def test_each_number_has_its_row_once() -> None:
    numbers = [int(number) for number, _, _ in ROW.findall(PAGE.read_text())]
    assert numbers == list(range(10, 30))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_a_row_names_tests_that_exist_or_says_why_there_are_none(number: int) -> None:
    _, held_by = ROWS[number]
    proofs = PROOF.findall(held_by)
    assert [proof for proof in proofs if not proof_exists(proof)] == []
    assert proofs or NOT_YET.search(held_by), held_by
    # Whatever else stands in backticks is a proof that is misspelt.
    assert len(proofs) == held_by.count("`") // 2
