"""What of a request an AuthorizationPolicy looks at: how strictly requests are spelled depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lateen.api.security import AuthorizationPolicy

__all__ = ["looks_at_paths", "names_of_headers"]

_HEADER: Final = re.compile(r"request\.headers\[(.+)\]", re.DOTALL)


def looks_at_paths(policy: AuthorizationPolicy) -> bool:
    """Tell whether the path of a request matters to a policy: always to CUSTOM, whose authorizer is shown it."""
    if policy.action == "CUSTOM" or ":path" in names_of_headers(policy):
        return True
    operations = (entry.operation for rule in policy.rules for entry in rule.to or ())
    return any(operation is not None and bool(operation.paths or operation.not_paths) for operation in operations)


def names_of_headers(policy: AuthorizationPolicy) -> frozenset[str]:
    """Return the headers that a policy's conditions name, in lower case."""
    return frozenset(_headers(policy))


def _headers(policy: AuthorizationPolicy) -> Iterator[str]:
    for rule in policy.rules:
        for condition in rule.when:
            if found := _HEADER.fullmatch(condition.key):
                yield found[1].lower()
