"""Decorators that make a function an adapter. The function stays as it is, and can be called and tested as such."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

__all__ = ["MARK", "Declared", "check_adapter", "report_adapter"]

MARK: Final = "__lateen_adapter__"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}\Z")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Declared:
    """What a decorator says of a function. `kind`: "check" or "report"."""

    kind: str
    name: str


def check_adapter(name: str) -> Callable[[F], F]:
    """Make `f(params, values)` decide: it returns a `Verdict`, or a truth, or is a coroutine that does.

    `params` is of the type that its annotation names, made of what the rule says. `values` are what the rule's
    expressions say of one request, without those that have no value. Raises: ValueError for a name that is none.
    """
    return _declaring("check", name)


def report_adapter(name: str) -> Callable[[F], F]:
    """Make `f(params, rows)` be told: `rows` is a list of such `values`, of some requests at a time."""
    return _declaring("report", name)


def _declaring(kind: str, name: str) -> Callable[[F], F]:
    if not _NAME.match(name):
        raise ValueError(f"an adapter's name is of small letters, digits and dashes, got {name!r}")

    def declare(function: F) -> F:
        setattr(function, MARK, Declared(kind, name))
        return function

    return declare
