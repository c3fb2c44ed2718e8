"""Which services claim one address and port for connections that nothing else tells apart, and who of them has it.

In:  resources as they come, change and go. Out: a warning for each that loses a port, naming the one that has it.
Rules: docs/api/Service.md "Conflicts". HTTP requests are told apart by their host and TLS by its server name, plain TCP
only by where it was dialled. Cost follows the change: only the slots of a resource that changed are looked at.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from lateen.api.base import Object, Problem, ResourceKey
from lateen.api.protocol import Protocol
from lateen.pilot.registry.services import service_rows
from lateen.pilot.registry.values import EVERYWHERE, Registry, Service

__all__ = ["Claims"]

ANYWHERE = "every address"  # of a service that has none of its own

Slot = tuple[Hashable, int]  # (what is dialled, port)


@dataclass(frozen=True, slots=True)
class _Claim:
    obj: Object
    service: Service
    path: str  # of the port, in the resource
    where: str  # for people

    @property
    def age(self) -> tuple[str, int, str, str]:
        """The order in which services compete; the first one has the slot."""
        return (self.service.created, self.service.registry, self.service.hostname, self.service.namespace)


@dataclass(slots=True)
class _Slot:
    claims: dict[tuple[ResourceKey, str], _Claim] = field(default_factory=dict)  # by resource and hostname


class Claims:
    """All claims. `replace` what a resource claims; `problems` are the losers."""

    def __init__(self) -> None:
        self._slots: dict[Slot, _Slot] = {}
        self._held: dict[ResourceKey, tuple[Slot, ...]] = {}
        self._contested: dict[Slot, None] = {}

    def replace(self, key: ResourceKey, obj: Object | None) -> None:
        """Take what a resource is now; None: it is gone."""
        for slot in self._held.pop(key, ()):
            claims = self._slots[slot].claims
            for claimed in [claimed for claimed in claims if claimed[0] == key]:
                del claims[claimed]
            self._settle(slot)
        found = list(_claims(obj)) if obj is not None else []
        for slot, claim in found:
            self._slots.setdefault(slot, _Slot()).claims[key, claim.service.hostname] = claim
            self._settle(slot)
        if found:
            self._held[key] = tuple(dict.fromkeys(slot for slot, _ in found))

    def problems(self) -> Iterator[Problem]:
        """Yield a warning for each port that is another, older service's."""
        for slot in self._contested:
            ordered = sorted(self._slots[slot].claims.values(), key=lambda claim: claim.age)
            for position, claim in enumerate(ordered):
                winner = next((other for other in ordered[:position] if _meet(other.service, claim.service)), None)
                if winner is not None:
                    message = (
                        f"port {slot[1]} of {claim.where} is that of {winner.service.hostname}, which is older: "
                        "TCP connections there go to it"
                    )
                    yield claim.obj.problem(claim.path, message, "warning")

    def _settle(self, slot: Slot) -> None:
        claims = self._slots[slot].claims
        if len({claim.service.hostname for claim in claims.values()}) > 1:
            self._contested[slot] = None
            return
        self._contested.pop(slot, None)
        if not claims:
            del self._slots[slot]


def _meet(one: Service, other: Service) -> bool:
    """Tell whether some namespace sees both of two services of different names."""
    if one.hostname == other.hostname:
        return False
    everyone = EVERYWHERE in one.export_to or EVERYWHERE in other.export_to
    return everyone or not {*one.export_to}.isdisjoint(other.export_to)


def _claims(obj: Object) -> Iterator[tuple[Slot, _Claim]]:
    for _, service in service_rows(obj):
        if service.alias_of is not None or not service.export_to:
            continue
        for position, port in enumerate(service.ports):
            if port.protocol.is_http or port.protocol.is_tls or port.protocol is Protocol.UDP:
                continue
            spelling = "number" if service.registry is Registry.SERVICE_ENTRY else "port"
            path = f"spec.ports[{position}].{spelling}"
            for place, where in _places(service):
                yield (place, port.number), _Claim(obj, service, path, where)


def _places(service: Service) -> Iterable[tuple[Hashable, str]]:
    if service.dialled:
        return [(address, address) for address in service.dialled]
    if service.headless:
        return [((service.namespace, service.selector), "its workloads")] if service.selector else []
    return [] if service.wants_vip else [(ANYWHERE, ANYWHERE)]
