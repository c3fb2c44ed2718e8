"""What a DestinationRule must satisfy beyond its shape. Rule ids (DR-..) are those of docs/api/DestinationRule.md.

Shape alone settles DR-13, DR-16, DR-18, DR-38, DR-39 and DR-47.
"""

from __future__ import annotations

from collections.abc import Iterator

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_export_to, check_label_map, check_selector
from lateen.api.check_traffic_policy import check_traffic_policy
from lateen.api.destination_rule import DestinationRule
from lateen.api.names import is_dns_label, is_ip, is_wildcard_domain

__all__ = ["check_destination_rule"]


def check_destination_rule(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a DestinationRule."""
    rule: DestinationRule = obj.spec
    if not (is_wildcard_domain(rule.host) or is_ip(rule.host)):  # DR-01
        yield obj.problem(
            "spec.host", f'must be the host of a service, or a wildcard as in *.foo.com, got "{rule.host}"'
        )
    if rule.traffic_policy is not None:
        yield from check_traffic_policy(obj, rule.traffic_policy, "spec.trafficPolicy")
    names: set[str] = set()
    for i, subset in enumerate(rule.subsets):
        path = f"spec.subsets[{i}]"
        if not is_dns_label(subset.name):  # DR-05
            yield obj.problem(f"{path}.name", f'must be a DNS label, got "{subset.name}"')
        if subset.name in names:  # DR-04
            yield obj.problem(f"{path}.name", f'is given twice, got "{subset.name}"')
        names.add(subset.name)
        yield from check_label_map(obj, subset.labels, f"{path}.labels")  # DR-06
        if subset.traffic_policy is not None:
            yield from check_traffic_policy(obj, subset.traffic_policy, f"{path}.trafficPolicy")
    yield from check_selector(obj, rule.workload_selector, "spec.workloadSelector")  # DR-08
    own_only = rule.workload_selector is not None and bool(rule.workload_selector.match_labels)
    yield from check_export_to(obj, rule.export_to, own_only=own_only)  # DR-07
