"""Locality balancing: which setting is in force, and which endpoints come first for a client.

In:  endpoints with their labels and localities, the client's, the settings of rule, service and mesh.
Out: the same endpoints with priorities and weights of their localities. No Envoy in here.
Rules: docs/api/DestinationRule.md "LocalityLoadBalancerSetting", docs/api/Service.md `trafficDistribution`.

A locality is `region/zone/subzone`, later parts may be missing. A client whose locality nobody told prefers none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lateen.api.base import Object
from lateen.pilot.model.values import EndpointInput, ZoneAware
from lateen.pilot.registry.entries import NETWORK_LABEL, traffic_distribution

__all__ = [
    "HOST_LABEL",
    "Balancing",
    "Client",
    "arrange",
    "asked_labels",
    "asks_locality",
    "locality_of",
    "select_balancing",
]

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"
SUBZONE_LABEL = "topology.istio.io/subzone"
HOST_LABEL = "kubernetes.io/hostname"
TOPOLOGY = (REGION_LABEL, ZONE_LABEL, SUBZONE_LABEL)
LOCALITY_LABELS = ("topology.istio.io/locality", "istio-locality")  # dots stand for slashes, which labels cannot have
_PLACING = frozenset({*TOPOLOGY, *LOCALITY_LABELS})

SAME_ZONE = (NETWORK_LABEL, REGION_LABEL, ZONE_LABEL)
SAME_NODE = (*SAME_ZONE, SUBZONE_LABEL, HOST_LABEL)
# Service `trafficDistribution` -> labels that bring an endpoint nearer.
DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "PreferClose": SAME_ZONE,
    "PreferSameZone": SAME_ZONE,
    "PreferSameNode": SAME_NODE,
}

PLACES = 5  # priorities by locality alone: 0 to 4
DEFAULT_MIN_CLUSTER_SIZE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What endpoints are compared with."""

    locality: str = ""
    labels: Mapping[str, str]  # at least those that a rule asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """The setting in force for one cluster; the empty one leaves all endpoints alike."""

    distribute: tuple[Any, ...] = ()  # api Distribute
    failover: tuple[Any, ...] = ()  # api Failover
    labels: tuple[str, ...] = ()  # `failoverPriority`, or those of a `trafficDistribution`
    by_locality: bool = False  # nearer localities first
    zones: ZoneAware | None = None

    @property
    def weighted(self) -> bool:
        """Localities share the traffic by their weights, and not just by the number of their endpoints."""
        return bool(self.distribute or ((self.failover or self.labels) and self.zones is None))


def select_balancing(
    balancer: Any, outlier: Any, *, distribution: str, mesh_locality: Any, mesh_zones: Any
) -> Balancing:
    """Return what holds: the rule's setting, else the service's `trafficDistribution`, else the mesh's.

    At one level zones come before localities. Without outlier detection nothing ever fails, so nothing fails over; a
    `trafficDistribution` prefers without it. `mesh_locality` None: Istio's default, on.
    """
    own_zones = balancer.zone_aware_lb_setting if balancer is not None else None
    own = balancer.locality_lb_setting if balancer is not None else None
    if own_zones is not None:
        return _zone_aware(own_zones, outlier)
    if own is not None:
        return _by_locality(own, outlier)
    if distribution:
        return Balancing(labels=DISTRIBUTIONS[distribution])
    if mesh_zones is not None:
        return _zone_aware(mesh_zones, outlier)
    return _by_locality(mesh_locality, outlier)


def _by_locality(setting: Any, outlier: Any) -> Balancing:
    if setting is None:
        return Balancing(by_locality=outlier is not None)
    if setting.enabled is False:
        return Balancing()
    if setting.distribute:
        return Balancing(distribute=setting.distribute)
    if outlier is None:
        return Balancing()
    labels = tuple(setting.failover_priority)
    return Balancing(failover=setting.failover, labels=labels, by_locality=bool(setting.failover) or not labels)


def _zone_aware(setting: Any, outlier: Any) -> Balancing:
    if setting.enabled is False:
        return Balancing(zones=ZoneAware(enabled=False))
    zones = ZoneAware(min_cluster_size=setting.min_cluster_size or DEFAULT_MIN_CLUSTER_SIZE)
    if outlier is None:
        return Balancing(zones=zones)
    return Balancing(failover=setting.failover, labels=tuple(setting.failover_priority), by_locality=True, zones=zones)


# ---------------------------------------------------------------- endpoints


def arrange(
    endpoints: Iterable[tuple[Mapping[str, str], EndpointInput]], balancing: Balancing, client: Client
) -> tuple[EndpointInput, ...]:
    """Return endpoints, each given with its labels, as `client` shall use them, sorted for `EndpointsInput`."""
    found = list(endpoints)
    if balancing.distribute:
        arranged = _distribute([endpoint for _, endpoint in found], balancing.distribute, client)
    elif not balancing.labels and not (balancing.by_locality and client.locality):
        arranged = [endpoint for _, endpoint in found]
    else:
        priorities = _compressed([_priority(labels, endpoint, balancing, client) for labels, endpoint in found])
        arranged = [
            endpoint if not priority else replace(endpoint, priority=priority)
            for (_, endpoint), priority in zip(found, priorities, strict=True)
        ]
    return tuple(sorted(arranged, key=lambda e: (e.priority, e.locality, e.address, e.port)))


def _distribute(endpoints: list[EndpointInput], entries: Sequence[Any], client: Client) -> list[EndpointInput]:
    """Give each locality its share; those that nothing is distributed to are left out."""
    entry = next((entry for entry in entries if _covers(entry.from_, client.locality)), None)
    if entry is None:
        return endpoints
    weights: dict[str, int] = defaultdict(int)
    for endpoint in endpoints:
        weights[endpoint.locality] += endpoint.weight
    shares: dict[str, int] = {}
    for target, weight in sorted(entry.to.items()):
        matching = [locality for locality in weights if locality not in shares and _covers(target, locality)]
        total = sum(weights[locality] for locality in matching)
        for locality in matching:
            shares[locality] = -(-weights[locality] * weight // total)  # rounded up: nothing with a share gets none
    return [
        replace(endpoint, locality_weight=shares[endpoint.locality])
        for endpoint in endpoints
        if endpoint.locality in shares
    ]


def _covers(pattern: str, locality: str) -> bool:
    """Tell whether `region/*`, or `region` alone, covers a locality."""
    wanted = pattern.split("/")
    if wanted[-1] == "*":
        wanted.pop()
    return [*_parts(locality)][: len(wanted)] == wanted


def _parts(locality: str) -> tuple[str, str, str]:
    region, zone, subzone, *_ = (*locality.split("/", 2), "", "")
    return region, zone, subzone


def _priority(labels: Mapping[str, str], endpoint: EndpointInput, balancing: Balancing, client: Client) -> int:
    place = _nearness(endpoint.locality, balancing, client.locality) if balancing.by_locality else 0
    if not balancing.labels:
        return place
    priority = _by_labels(_with_topology(labels, endpoint.locality), balancing.labels, client)
    return priority * PLACES + place


def _by_labels(labels: Mapping[str, str], wanted: Sequence[str], client: Client) -> int:
    """Return how many of `wanted` are not part of the leading run that matches; the nearest endpoints are at 0.

    An endpoint of another network, where that is the first label, comes behind all of the client's own network.
    """
    mine = _with_topology(client.labels, client.locality)
    other_network = 0
    for position, text in enumerate(wanted):
        label, equals, constant = text.partition("=")
        if labels.get(label, "") == (constant if equals else mine.get(label, "")):
            continue
        if position == 0 and label == NETWORK_LABEL:
            other_network = len(wanted)
            continue
        return other_network + len(wanted) - position
    return other_network


def _with_topology(labels: Mapping[str, str], locality: str) -> Mapping[str, str]:
    """Return labels with those that a node of this locality has."""
    return {**{label: part for label, part in zip(TOPOLOGY, _parts(locality), strict=True) if part}, **labels}


def _nearness(locality: str, balancing: Balancing, mine: str) -> int:
    """Return 0 for the client's own locality, then its zone, its region, the region to fail over to, all others."""
    if not mine:
        return 0
    (region, zone, subzone), (my_region, my_zone, my_subzone) = _parts(locality), _parts(mine)
    if region == my_region:
        if balancing.zones is not None or (zone, subzone) == (my_zone, my_subzone):
            return 0  # between the zones of a region it is Envoy that shares
        return 1 if zone == my_zone else 2
    targets = {entry.to for entry in balancing.failover if entry.from_ == my_region}
    return 4 if targets and region not in targets else 3


def _compressed(priorities: list[int]) -> list[int]:
    """Return the same order without gaps: Envoy refuses priorities that skip one."""
    ranks = {priority: rank for rank, priority in enumerate(sorted(set(priorities)))}
    return [ranks[priority] for priority in priorities]


# ---------------------------------------------------------------- what is asked of clients


def locality_of(written: str, labels: Mapping[str, str]) -> str:
    """Return a workload's locality: as it was given, else what its labels say."""
    if written or _PLACING.isdisjoint(labels):
        return written
    for label in LOCALITY_LABELS:
        if found := labels.get(label, ""):
            return found.replace(".", "/")
    return "/".join(part for label in TOPOLOGY if (part := labels.get(label, "")))


def asks_locality(obj: Object) -> list[str]:
    """Return the namespaces ("*": all) whose clients are served by their locality because of `obj`."""
    match obj.key.kind:
        case "DestinationRule" if any(_locality_matters(policy) for policy in _policies(obj.spec)):
            owner = obj.key.namespace
            return sorted({owner if entry == "." else entry for entry in obj.spec.export_to or ("*",)})
        case "Service" | "ServiceEntry" if traffic_distribution(obj):
            return ["*"]
        case "MeshConfig" if _mesh_asks(obj.spec):
            return ["*"]
    return []


def asked_labels(obj: Object) -> list[str]:
    """Return the labels of clients that balancing by `obj` compares with endpoints'."""
    match obj.key.kind:
        case "DestinationRule":
            settings = [
                setting
                for policy in _policies(obj.spec)
                if policy.load_balancer is not None
                for setting in (policy.load_balancer.locality_lb_setting, policy.load_balancer.zone_aware_lb_setting)
            ]
        case "MeshConfig":
            settings = [obj.spec.locality_lb_setting, obj.spec.zone_aware_lb_setting]
        case "Service" if traffic_distribution(obj) or obj.spec.internal_traffic_policy == "Local":
            return [HOST_LABEL, NETWORK_LABEL]
        case "ServiceEntry" if traffic_distribution(obj):
            return [HOST_LABEL, NETWORK_LABEL]
        case _:
            return []
    return sorted(
        {
            label
            for setting in settings
            if setting is not None
            for label in setting.failover_priority
            if "=" not in label
        }
    )


def _policies(spec: Any) -> list[Any]:
    """Return every place of a DestinationRule that may have a load balancer and outlier detection."""
    whole = [spec.traffic_policy, *(subset.traffic_policy for subset in spec.subsets)]
    policies = [policy for policy in whole if policy is not None]
    return [*policies, *(entry for policy in policies for entry in policy.port_level_settings)]


def _locality_matters(policy: Any) -> bool:
    balancer = policy.load_balancer
    own = balancer is not None and (balancer.locality_lb_setting or balancer.zone_aware_lb_setting) is not None
    return own or policy.outlier_detection is not None


def _mesh_asks(spec: Any) -> bool:
    default = spec.default_traffic_policy
    settings = (spec.locality_lb_setting, spec.zone_aware_lb_setting)
    return any(setting is not None for setting in settings) or (
        default is not None and default.outlier_detection is not None
    )
