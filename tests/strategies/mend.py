"""Cut away from a random resource what the checks refuse, until they take it: most of what was drawn then counts."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from lateen.api.base import Object, Problem
from lateen.api.decode import decode_documents

ROUNDS = 8
_STEP = re.compile(r"\[([^\]]*)\]|([^.\[]+)")


def accepted(resource: dict[str, Any], file: str = "fuzz.yaml") -> Object | None:
    """Return the resource as it is decoded, with as little as possible cut away; None when nothing helps."""
    plain = copy.deepcopy(resource)
    for _ in range(ROUNDS):
        decoded = decode_documents(json.dumps(plain).encode(), file)
        errors = [problem for problem in decoded.problems if problem.level == "error"]
        if not errors:
            return decoded.objects[0] if decoded.objects else None
        # From the back, so that the places of list entries in front stay what they are.
        cut = [_cut(plain, problem) for problem in sorted(errors, key=lambda problem: problem.field, reverse=True)]
        if not any(cut):
            return None
    return None


def _cut(plain: dict[str, Any], problem: Problem) -> bool:
    """Delete what a problem is about: the field, or what should have it."""
    steps: list[Any] = [
        int(index) if index.isdecimal() else index or name for index, name in _STEP.findall(problem.field)
    ]
    if not steps or steps[0] != "spec":
        return False
    if "required" in problem.message or "must have" in problem.message:
        return _delete(plain, steps) or _delete(plain, steps[:-1])
    return _delete(plain, steps) or any(_delete(plain, steps[:end]) for end in range(len(steps) - 1, 1, -1))


def _delete(plain: Any, steps: list[Any]) -> bool:
    if len(steps) < 2:
        return False
    at = plain
    for step in steps[:-1]:
        try:
            at = at[step]
        except (KeyError, IndexError, TypeError):
            return False
    last = steps[-1]
    if (isinstance(at, dict) and last in at) or (isinstance(at, list) and isinstance(last, int) and last < len(at)):
        del at[last]
        return True
    return False
