"""How far a mesh lets ServiceEntries be seen, beside what each says of itself in exportTo.

Rules: `serviceEntryVisibility` of MeshConfig, docs/api/MeshConfig.md. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lateen.pilot.registry.values import EVERYWHERE

__all__ = ["NAMESPACE", "NONE", "PUBLIC", "narrow", "select_visibility"]

PUBLIC, NAMESPACE, NONE = "PUBLIC", "NAMESPACE", "NONE"


def select_visibility(setting: Any, labels: Mapping[str, str]) -> str:
    """Return how far entries of a namespace with these labels are seen by sidecars and gateways.

    `setting`: MeshConfig's `serviceEntryVisibility` or None. The first policy all of whose rules match decides.
    """
    if setting is None or not setting.apply_to_sidecars:
        return PUBLIC  # without it, it is about ambient proxies
    for policy in setting.policies:
        if all(_matches(rule.namespace_selector, labels) for rule in policy.matching_rules):
            return _known(policy.visibility)
    return _known(setting.default_visibility)


def narrow(export_to: tuple[str, ...], visibility: str, namespace: str) -> tuple[str, ...]:
    """Return what is left of an entry's exportTo (resolved: names, or `EVERYWHERE`)."""
    if visibility == PUBLIC:
        return export_to
    own = visibility == NAMESPACE and (EVERYWHERE in export_to or namespace in export_to)
    return (namespace,) if own else ()


def _known(visibility: str | None) -> str:
    return visibility if visibility in (NAMESPACE, NONE) else PUBLIC


def _matches(selector: Any, labels: Mapping[str, str]) -> bool:
    if selector is None:
        return True
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_holds(requirement, labels) for requirement in selector.match_expressions)


def _holds(requirement: Any, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case _:
            return value is None
