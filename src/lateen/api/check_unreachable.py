"""Rules of a VirtualService that no request can reach, and matches that add nothing. Warnings only.

Rule ids (VS-80..84) are those of docs/api/VirtualService.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from lateen.api.base import Object, Problem
from lateen.api.virtual_service import HTTPMatchRequest, StringMatch

__all__ = ["check_unreachable"]

# Beyond so many, prefixes are not compared with each other: that takes the square of their number.
PREFIXES_LIMIT: Final = 200
_ANY_PREFIX: Final = StringMatch(prefix="")


def check_unreachable(obj: Object, rules: Sequence[Any], path: str) -> Iterator[Problem]:
    """Yield warnings about `rules`, which are those of `http`, `tls` or `tcp`."""
    catch_all: int | None = None
    first_of: dict[Any, str] = {}
    prefixes: dict[Any, list[tuple[str, str]]] = {}
    for i, rule in enumerate(rules):
        place = f"{path}[{i}]"
        if catch_all is not None:  # VS-80, VS-81
            message = f"can never be reached: {path}[{catch_all}] before it has no match, so it takes everything"
            yield obj.problem(place, message, "warning")
        if not rule.match:
            catch_all = i if catch_all is None else catch_all
            continue
        matches = [_nameless(match) for match in rule.match]
        if all(match in first_of for match in matches):  # VS-83
            yield obj.problem(place, "can never be reached: earlier rules have all of its matches", "warning")
        for j, match in enumerate(matches):
            where = f"{place}.match[{j}]"
            before = first_of.setdefault(match, where)
            if before != where:  # VS-82
                yield obj.problem(where, f"adds nothing: the same as {before}", "warning")
            elif isinstance(match, HTTPMatchRequest):
                yield from _check_prefix(obj, match, where, prefixes)


def _check_prefix(
    obj: Object, match: HTTPMatchRequest, where: str, prefixes: dict[Any, list[tuple[str, str]]]
) -> Iterator[Problem]:
    """VS-84, for matches that are equal but for the prefix; names do not count, and `match` has none."""
    prefix = match.uri.prefix if match.uri is not None else None
    if prefix is None:
        return
    others = prefixes.setdefault(msgspec.structs.replace(match, uri=_ANY_PREFIX), [])
    for before, place in others:
        if prefix.startswith(before):
            yield obj.problem(where, f'adds nothing: {place} takes every path that begins with "{before}"', "warning")
            break
    if len(others) < PREFIXES_LIMIT:
        others.append((prefix, where))


def _nameless(match: Any) -> Any:
    return msgspec.structs.replace(match, name="") if isinstance(match, HTTPMatchRequest) and match.name else match
