"""Delegation: the rules of a VirtualService with those of its delegates put in their places.

In:  an `HTTPRoute` with `delegate`, and the VirtualService it names.
Out: the delegate's rules, each narrowed and completed by the root's.
Rules: docs/api/VirtualService.md "Delegates" (Istio's merge of matches and fields). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lateen.api.base import FrozenMap, Object, ResourceKey
from lateen.api.virtual_service import Delegate, Destination, HTTPMatchRequest, HTTPRoute, StringMatch
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.routes import qualified_gateways

__all__ = ["delegate_key", "merge_delegate"]

# What a delegate's rule takes from the root's where it says nothing itself; route and redirect are always its own.
_INHERITED = (
    "rewrite",
    "direct_response",
    "timeout",
    "retries",
    "fault",
    "mirror",
    "mirror_percentage",
    "mirror_percent",
    "mirrors",
    "cors_policy",
    "headers",
)
_TEXTS = ("uri", "scheme", "method", "authority")
_MAPS = ("headers", "without_headers", "query_params")


def delegate_key(delegate: Delegate, namespace: str) -> ResourceKey:
    """Return the VirtualService that `delegate` names in one of `namespace`."""
    return ResourceKey("VirtualService", delegate.namespace or namespace, delegate.name)


def merge_delegate(root: HTTPRoute, owner: str, delegate: Object) -> tuple[tuple[HTTPRoute, ...], tuple[int, ...]]:
    """Return the rules that stand in place of `root`, and the positions of the delegate's rules that are left out.

    `owner` is the root's namespace. A delegate's rule is left out when one of its matches agrees with none of the
    root's. Names in the delegate are completed with the delegate's namespace.
    """
    merged: list[HTTPRoute] = []
    left_out: list[int] = []
    roots = tuple(_absolute(match, owner) for match in root.match)
    for position, leaf in enumerate(delegate.spec.http):
        matches = _merge_matches(roots, tuple(_absolute(match, delegate.key.namespace) for match in leaf.match))
        if matches is None:
            left_out.append(position)
            continue
        own = _resolved(leaf, delegate.key.namespace)
        inherited = {
            field: taken for field in _INHERITED if not getattr(own, field) and (taken := getattr(root, field))
        }
        merged.append(
            msgspec.structs.replace(own, name=_joined(root.name, own.name), match=matches, delegate=None, **inherited)
        )
    return tuple(merged), tuple(left_out)


def _resolved(rule: HTTPRoute, namespace: str) -> HTTPRoute:
    """Return `rule` with the hosts of its destinations spelled out, so that it means the same in another namespace."""

    def spelled(destination: Destination) -> Destination:
        return msgspec.structs.replace(destination, host=full_name(destination.host, namespace))

    return msgspec.structs.replace(
        rule,
        route=tuple(
            msgspec.structs.replace(entry, destination=spelled(entry.destination)) if entry.destination else entry
            for entry in rule.route
        ),
        mirror=None if rule.mirror is None else spelled(rule.mirror),
        mirrors=tuple(msgspec.structs.replace(entry, destination=spelled(entry.destination)) for entry in rule.mirrors),
    )


def _absolute(match: HTTPMatchRequest, namespace: str) -> HTTPMatchRequest:
    if not match.gateways:
        return match
    return msgspec.structs.replace(match, gateways=qualified_gateways(match.gateways, namespace))


def _joined(root: str, leaf: str) -> str:
    return f"{root}-{leaf}" if root and leaf else root or leaf


def _merge_matches(
    roots: tuple[HTTPMatchRequest, ...], leaves: tuple[HTTPMatchRequest, ...]
) -> tuple[HTTPMatchRequest, ...] | None:
    """Return every pair that agrees, in the leaves' order; None when a leaf agrees with no root."""
    if not roots or not leaves:
        return roots or leaves
    merged: list[HTTPMatchRequest] = []
    for leaf in leaves:
        found = [_merge_match(root, leaf) for root in roots if not _conflict(root, leaf)]
        if not found:
            return None
        merged.extend(found)
    return tuple(merged)


def _merge_match(root: HTTPMatchRequest, leaf: HTTPMatchRequest) -> HTTPMatchRequest:
    texts = {field: _narrower(getattr(root, field), getattr(leaf, field)) for field in _TEXTS}
    maps = {field: _merge_texts(getattr(root, field), getattr(leaf, field)) for field in _MAPS}
    return msgspec.structs.replace(
        leaf,
        name=_joined(root.name, leaf.name),
        port=leaf.port or root.port,
        source_labels=FrozenMap({**root.source_labels, **leaf.source_labels}),
        source_namespace=leaf.source_namespace or root.source_namespace,
        gateways=leaf.gateways or root.gateways,
        stat_prefix=leaf.stat_prefix or root.stat_prefix,
        **texts,
        **maps,
    )


def _merge_texts(root: Mapping[str, StringMatch], leaf: Mapping[str, StringMatch]) -> Mapping[str, StringMatch]:
    merged = {key: _narrower(root.get(key), leaf.get(key)) for key in {**root, **leaf}}
    return FrozenMap({key: value for key, value in merged.items() if value is not None})


def _narrower(root: StringMatch | None, leaf: StringMatch | None) -> StringMatch | None:
    """Return the leaf's word, but the root's where the leaf asks for no more than presence."""
    return root if leaf is None or (_is_presence(leaf) and root is not None) else leaf


def _is_presence(text: StringMatch) -> bool:
    return text.exact is None and text.prefix is None and text.regex is None


def _conflict(root: HTTPMatchRequest, leaf: HTTPMatchRequest) -> bool:
    """Tell whether no request can be meant by both, or whether that cannot be told (regular expressions)."""
    if root.ignore_uri_case != leaf.ignore_uri_case:
        return True
    if any(_texts_conflict(getattr(root, field), getattr(leaf, field)) for field in _TEXTS):
        return True
    for field in _MAPS:
        ours, theirs = getattr(root, field), getattr(leaf, field)
        if any(_texts_conflict(text, theirs.get(key)) for key, text in ours.items()):
            return True
    if root.port and leaf.port and root.port != leaf.port:
        return True
    if root.source_namespace and root.source_namespace != leaf.source_namespace:
        return True
    if any(leaf.source_labels.get(key, value) != value for key, value in root.source_labels.items()):
        return True
    return bool(root.gateways and leaf.gateways and not set(leaf.gateways) <= set(root.gateways))


def _texts_conflict(root: StringMatch | None, leaf: Any) -> bool:
    if root is None or leaf is None or _is_presence(root) or _is_presence(leaf):
        return False
    if root.regex is not None or leaf.regex is not None:
        return True
    if root.exact is not None:
        return bool(leaf.exact != root.exact)
    value = leaf.exact if leaf.exact is not None else leaf.prefix
    return not (value or "").startswith(root.prefix or "")
