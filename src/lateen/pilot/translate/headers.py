"""What routes do to headers, and which host they ask for upstream.

In:  api `Headers` of a rule and of a destination, `HTTPRewrite`.
Out: fields of `Route` or `ClusterWeight`, by name.
Rules: Istio `Headers`, docs/api/translation.md "Headers". `set` comes before `add`, each sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption

__all__ = ["authority_of", "header_fields"]

_HOST_KEYS = frozenset({"host", ":authority"})


def header_fields(*headers: Any) -> dict[str, Any]:
    """Return the mutation fields for several `Headers`, applied one after the other; `None` ones are passed over."""
    requests = [entry.request for entry in headers if entry is not None and entry.request is not None]
    responses = [entry.response for entry in headers if entry is not None and entry.response is not None]
    fields = {
        "request_headers_to_add": [option for operations in requests for option in _added(operations)],
        "request_headers_to_remove": [name for operations in requests for name in _removed(operations)],
        "response_headers_to_add": [option for operations in responses for option in _added(operations)],
        "response_headers_to_remove": [name for operations in responses for name in _removed(operations)],
    }
    return {name: value for name, value in fields.items() if value}


def authority_of(headers: Any) -> str:
    """Return the host that `headers.request` sets for the upstream request; "" for none. `set` beats `add`."""
    if headers is None or headers.request is None:
        return ""
    for operations in (headers.request.set, headers.request.add):
        for name, value in sorted((operations or {}).items()):
            if name.lower() in _HOST_KEYS:
                return str(value)
    return ""


def _added(operations: Any) -> Iterator[HeaderValueOption]:
    for values, action in (
        (operations.set, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        (operations.add, HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
    ):
        for name, value in sorted((values or {}).items()):
            if not _is_special(name):
                yield HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)


def _removed(operations: Any) -> Iterator[str]:
    return (name for name in operations.remove or () if not _is_special(name))


def _is_special(name: str) -> bool:
    # Envoy refuses to add or remove these: the host is rewritten instead, other pseudo headers stay as they are.
    return name.startswith(":") or name.lower() == "host"
