"""Sidecars and ProxyConfigs of which a namespace has several for the same workloads: the oldest acts, others are told.

In:  resources as they come, change and go. Out: a warning for each that never acts, naming the one that does.
Rules: docs/api/Sidecar.md and ProxyConfig.md, "Precedence". Cost follows the change: only those of one kind, namespace
and selector are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lateen.api.base import Object, Problem, ResourceKey
from lateen.pilot.model.policy import age_key

__all__ = ["Rivals"]

_Place = tuple[str, str, frozenset[tuple[str, str]]]  # kind, namespace, selector


class Rivals:
    """All of them by whom they are for. `replace` what one says; `problems` are those that lose."""

    def __init__(self) -> None:
        self._places: dict[_Place, dict[ResourceKey, Object]] = {}
        self._held: dict[ResourceKey, _Place] = {}
        self._contested: dict[_Place, None] = {}

    def replace(self, key: ResourceKey, obj: Object | None) -> None:
        """Take what a resource is now; None: it is gone. Other kinds are passed over."""
        if key.kind not in ("Sidecar", "ProxyConfig"):
            return
        before = self._held.pop(key, None)
        if before is not None:
            del self._places[before][key]
            self._settle(before)
        if obj is not None:
            place = (key.kind, key.namespace, frozenset(_selector(obj).items()))
            self._held[key] = place
            self._places.setdefault(place, {})[key] = obj
            self._settle(place)

    def problems(self) -> Iterator[Problem]:
        """Yield a warning for each one that stands behind an older one."""
        for place in self._contested:
            first, *others = sorted(self._places[place].values(), key=age_key)
            for obj in others:
                yield obj.problem("", f"is not in force: {first.key} is older and for the same workloads", "warning")

    def _settle(self, place: _Place) -> None:
        found = self._places[place]
        if len(found) > 1:
            self._contested[place] = None
            return
        self._contested.pop(place, None)
        if not found:
            del self._places[place]


def _selector(obj: Object) -> Mapping[str, str]:
    if obj.key.kind == "Sidecar":
        return obj.spec.workload_selector.labels if obj.spec.workload_selector is not None else {}
    return obj.spec.selector.match_labels if obj.spec.selector is not None else {}
