"""What locality balancing must satisfy. Rule ids (DR-30..37) are those of docs/api/DestinationRule.md.

A locality is `region/zone/subzone`; later parts may be left away, and the last one may be `*`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.destination_rule import Distribute, Failover, LocalityLoadBalancerSetting, ZoneAwareLoadBalancerSetting
from lateen.api.places import join_path

__all__ = ["check_locality_lb", "check_zone_aware_lb"]

TOPOLOGY_LABELS: Final = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


def check_locality_lb(obj: Object, setting: LocalityLoadBalancerSetting, path: str) -> Iterator[Problem]:
    """DR-30..34, DR-36."""
    if setting.distribute and setting.failover:  # DR-30
        yield obj.problem(f"{path}.failover", "must not stand beside distribute")
    if setting.failover:  # DR-31
        yield from _check_priority(obj, setting.failover_priority, f"{path}.failoverPriority", "with failover")
    yield from _check_failover(obj, setting.failover, f"{path}.failover")
    sources = _Localities()
    for i, entry in enumerate(setting.distribute):
        place = f"{path}.distribute[{i}]"
        yield from _check_locality(obj, entry.from_, f"{place}.from", sources)
        yield from _check_weights(obj, entry, f"{place}.to")


def check_zone_aware_lb(obj: Object, setting: ZoneAwareLoadBalancerSetting, path: str) -> Iterator[Problem]:
    """DR-36, DR-37."""
    yield from _check_failover(obj, setting.failover, f"{path}.failover")
    yield from _check_priority(obj, setting.failover_priority, f"{path}.failoverPriority", "here")


def _check_priority(obj: Object, labels: Iterable[str], path: str, where: str) -> Iterator[Problem]:
    for i, label in enumerate(labels):
        if label.partition("=")[0] in TOPOLOGY_LABELS:
            yield obj.problem(f"{path}[{i}]", f'must not name a label of the topology {where}, got "{label}"')


def _check_failover(obj: Object, entries: Iterable[Failover], path: str) -> Iterator[Problem]:
    for i, entry in enumerate(entries):  # DR-36
        if entry.from_ == entry.to:
            yield obj.problem(f"{path}[{i}].to", f'must be another region than from, got "{entry.to}"')
        for name, region in (("from", entry.from_), ("to", entry.to)):
            if "/" in region or "*" in region:
                yield obj.problem(f"{path}[{i}].{name}", f'must be a region alone, got "{region}"')


def _check_weights(obj: Object, entry: Distribute, path: str) -> Iterator[Problem]:
    targets = _Localities()
    for locality, weight in entry.to.items():
        place = join_path(path, locality)
        yield from _check_locality(obj, locality, place, targets)
        if not 1 <= weight <= 100:  # DR-32
            yield obj.problem(place, f"must be a weight from 1 to 100, got {weight}")
    total = sum(entry.to.values())
    if total != 100:
        yield obj.problem(path, f"must have weights that make 100 together, got {total}")


class _Localities:
    """Localities seen so far; finds one that overlaps with another without comparing all of them."""

    def __init__(self) -> None:
        self._whole: set[tuple[str, ...]] = set()
        self._parents: set[tuple[str, ...]] = set()  # of every locality seen, all that are shorter

    def add(self, parts: tuple[str, ...]) -> bool:
        """Remember a locality (without its `*`); tell whether it covers one seen before, or is covered by one."""
        above = [parts[:length] for length in range(len(parts) + 1)]
        overlaps = parts in self._parents or any(prefix in self._whole for prefix in above)
        self._whole.add(parts)
        self._parents.update(above)
        return overlaps


def _check_locality(obj: Object, locality: str, path: str, seen: _Localities) -> Iterator[Problem]:
    parts = tuple(locality.split("/"))
    if "" in parts or len(parts) > 3 or "*" in "".join(parts[:-1]) or ("*" in parts[-1] and parts[-1] != "*"):  # DR-33
        yield obj.problem(path, f'must be region/zone/subzone, "*" in the last place only, got "{locality}"')
    elif seen.add(parts[:-1] if parts[-1] == "*" else parts):  # DR-34
        yield obj.problem(path, f'must not overlap with another locality, got "{locality}"')
