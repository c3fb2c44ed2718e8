"""DestinationRules that say something which an older one has said already.

In:  resources as they come, change and go. Out: a warning for each part of a rule that has no effect, naming the rule
whose word stands. Rules: docs/api/DestinationRule.md "Precedence". Cost follows the change: a rule is held against
those of its own host and audience.
"""

from __future__ import annotations

from collections.abc import Iterator

from lateen.api.base import Object, Problem, ResourceKey
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.policy import age_key, audience_of

__all__ = ["Overlaps"]

Group = tuple[str, str, object]  # namespace, host, audience: rules that are merged


class Overlaps:
    """All DestinationRules, by what merges them."""

    def __init__(self) -> None:
        self._groups: dict[Group, dict[ResourceKey, Object]] = {}
        self._group_of: dict[ResourceKey, Group] = {}
        self._crowded: dict[Group, None] = {}

    def replace(self, key: ResourceKey, obj: Object | None) -> None:
        """Take what a resource is now; None: it is gone."""
        if key.kind != "DestinationRule":
            return
        before = self._group_of.pop(key, None)
        if before is not None:
            del self._groups[before][key]
            self._settle(before)
        if obj is not None:
            group = (key.namespace, full_name(obj.spec.host, key.namespace), audience_of(obj))
            self._group_of[key] = group
            self._groups.setdefault(group, {})[key] = obj
            self._settle(group)

    def problems(self) -> Iterator[Problem]:
        """Yield a warning for each part of a rule that an older one has said already."""
        for group in self._crowded:
            policy: Object | None = None
            subsets: dict[str, Object] = {}
            for rule in sorted(self._groups[group].values(), key=age_key):
                if rule.spec.traffic_policy is not None:
                    if policy is not None:
                        yield _unheard(rule, "spec.trafficPolicy", policy)
                    policy = policy or rule
                for position, subset in enumerate(rule.spec.subsets):
                    if subset.name in subsets:
                        yield _unheard(rule, f"spec.subsets[{position}].name", subsets[subset.name])
                    subsets.setdefault(subset.name, rule)

    def _settle(self, group: Group) -> None:
        rules = self._groups[group]
        if len(rules) > 1:
            self._crowded[group] = None
            return
        self._crowded.pop(group, None)
        if not rules:
            del self._groups[group]


def _unheard(rule: Object, place: str, heard: Object) -> Problem:
    message = f"has no effect: the older DestinationRule {heard.key.name} of the same host says it already"
    return rule.problem(place, message, "warning")
