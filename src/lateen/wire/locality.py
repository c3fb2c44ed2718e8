"""Where a workload runs, as text: `region/zone/subzone`, from left to right as far as it is known."""

from __future__ import annotations

import re
from typing import Final

from lateen.errors import BadInput

__all__ = ["check_locality"]

_FORM: Final = re.compile(r"[^/*\s]{1,63}(/[^/*\s]{1,63}){0,2}")


def check_locality(text: str) -> None:
    """Raise `BadInput` for a text that is no locality; empty is one: it is not known."""
    if text and not _FORM.fullmatch(text):
        raise BadInput(f"locality: must be region, region/zone or region/zone/subzone, got {text!r}")
