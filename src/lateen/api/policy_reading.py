"""What of a request an AuthorizationPolicy looks at: how strictly requests are spelled depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lateen.api.security import AuthorizationPolicy

__all__ = ["POLICY_TEXT_BYTES", "header_of", "is_header_name", "looks_at_paths", "names_of_headers"]

# Of a text that is compared, in UTF-8. It may become a regular expression: a few instructions of RE2 a byte, of which
# Envoy takes 32768.
POLICY_TEXT_BYTES: Final = 1024

_HEADER: Final = re.compile(r"request\.headers\[(.+)\]", re.DOTALL)
_NAME: Final = re.compile(r":(authority|method|path|scheme)|[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.1


def looks_at_paths(policy: AuthorizationPolicy) -> bool:
    """Tell whether the path of a request matters to a policy: always to CUSTOM, whose authorizer is shown it."""
    if policy.action == "CUSTOM" or ":path" in names_of_headers(policy):
        return True
    operations = (entry.operation for rule in policy.rules for entry in rule.to or ())
    return any(operation is not None and bool(operation.paths or operation.not_paths) for operation in operations)


def names_of_headers(policy: AuthorizationPolicy) -> frozenset[str]:
    """Return the headers that a policy's conditions name, in lower case."""
    return frozenset(_headers(policy))


def header_of(key: str) -> str | None:
    """Return the header that a condition's key names, as written; None for other keys."""
    found = _HEADER.fullmatch(key)
    return found[1] if found is not None else None


def is_header_name(name: str) -> bool:
    """Tell whether a header, or a pseudo-header of HTTP/2, can have this name."""
    return _NAME.fullmatch(name) is not None


def _headers(policy: AuthorizationPolicy) -> Iterator[str]:
    for rule in policy.rules:
        for condition in rule.when:
            if (name := header_of(condition.key)) is not None:
                yield name.lower()
