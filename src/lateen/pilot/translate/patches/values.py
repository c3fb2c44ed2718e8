"""The message that each `applyTo` takes, and a patch's value as that message, read once.

Which operations have an effect where: `api.check_envoy_filter`, which refuses the others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import Message

from lateen.api.places import join_path
from lateen.pilot.model.envoy_filters import Patch
from lateen.pilot.translate.patches.merge import Mismatch, merged
from lateen.pilot.translate.patches.outcome import Trace
from lateen.pilot.translate.patches.parse import Parsed, ValueFault, parse_value
from lateen.pilot.translate.patches.types import message_class

__all__ = ["MESSAGES", "merges", "message_of", "parse_patch", "parsed_patch", "try_merge", "usable"]

MESSAGES: Final = {
    "LISTENER": "envoy.config.listener.v3.Listener",
    "LISTENER_FILTER": "envoy.config.listener.v3.ListenerFilter",
    "FILTER_CHAIN": "envoy.config.listener.v3.FilterChain",
    "NETWORK_FILTER": "envoy.config.listener.v3.Filter",
    "HTTP_FILTER": "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    "ROUTE_CONFIGURATION": "envoy.config.route.v3.RouteConfiguration",
    "VIRTUAL_HOST": "envoy.config.route.v3.VirtualHost",
    "HTTP_ROUTE": "envoy.config.route.v3.Route",
    "CLUSTER": "envoy.config.cluster.v3.Cluster",
    "EXTENSION_CONFIG": "envoy.config.core.v3.TypedExtensionConfig",
    "BOOTSTRAP": "envoy.config.bootstrap.v3.Bootstrap",
}
_NAMED: Final = frozenset(
    {"LISTENER", "LISTENER_FILTER", "NETWORK_FILTER", "HTTP_FILTER", "CLUSTER", "VIRTUAL_HOST", "EXTENSION_CONFIG"}
)
_MERGES: Final = frozenset({"MERGE", "MERGE_AND_REPLACE_LIST"})


def parse_patch(apply_to: str, operation: str, value: Any, path: str) -> Parsed:
    """Return the value of one patch. Raises `ValueFault`."""
    kind = message_class(MESSAGES[apply_to])
    assert kind is not None, apply_to
    parsed = parse_value(value, kind, path)
    if operation not in _MERGES and apply_to in _NAMED and not parsed.message.name:
        raise ValueFault(join_path(path, "name"), f"is required for {operation}")
    return parsed


@lru_cache(maxsize=4096)  # a patch acts on many resources; equal patches have equal values
def _parsed(patch: Patch) -> Parsed | None:
    if patch.value is None:
        return None
    try:
        return parse_patch(patch.apply_to, patch.operation, patch.value, "")
    except ValueFault:
        return None  # told by `check`, from the resource itself


def parsed_patch(patch: Patch) -> Parsed | None:
    """Return a patch's value, None when there is none or it is faulty. It is shared: never change its message."""
    return _parsed(patch)


def usable(patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
    """Return the patches whose values could be read: a bad one is left out, alone."""
    return tuple(patch for patch in patches if patch.operation == "REMOVE" or _parsed(patch) is not None)


def message_of(patch: Patch) -> Any:
    """Return a copy of what the patch says, which may be changed."""
    parsed = _parsed(patch)
    assert parsed is not None, patch.id
    copy: Message = type(parsed.message)()
    copy.CopyFrom(parsed.message)
    return copy


def try_merge(base: Any, patch: Patch, trace: Trace, *, sure: bool = True) -> Any:
    """Return `base` with a merging patch applied, or `base` itself where that cannot be; note which.

    `sure`: the patch names what it means, so that a mismatch is its fault.
    """
    parsed = _parsed(patch)
    assert parsed is not None, patch.id
    try:
        result = merged(base, parsed, replace_lists=patch.operation == "MERGE_AND_REPLACE_LIST")
    except Mismatch as fault:
        if sure:
            trace.failed(patch, str(fault))
        return base
    trace.hit(patch)
    return result


def merges(patch: Patch) -> bool:
    return patch.operation in _MERGES
