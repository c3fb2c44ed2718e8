"""Tell people what is held back: which resource, whose it is, Envoy's words, and what is served meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from lateen.api.base import Problem, ResourceKey
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.serving.gate import Gate, Held, Place
from lateen.pilot.serving.origins import culprits_of, to_blame
from lateen.pilot.serving.scopes import Scopes
from lateen.pilot.xds.type_urls import short_name
from lateen.wire.local import QuarantineInfo

__all__ = ["Quarantine"]

log = structlog.get_logger(__name__)


class Quarantine:
    """Follows the gate, and finds who is to blame once a resource."""

    def __init__(self, mesh: Mesh, scopes: Scopes, gate: Gate) -> None:
        self._mesh = mesh
        self._scopes = scopes
        self._gate = gate
        self._culprits: dict[Held, tuple[ResourceKey, ...]] = {}
        gate.on_held = self._note

    def _note(self, held: Held) -> None:
        place = held.place
        self._forget()
        log.warning(
            "resource held back",
            scope=place.scope,
            type=short_name(place.type_url),
            resource=place.name,
            error=held.words,
            instead=held.instead,
            shaped_by=[str(key) for key in self.culprits(held)],
        )

    def _forget(self) -> None:
        stand = set(self._gate.held.values())
        self._culprits = {held: keys for held, keys in self._culprits.items() if held in stand}

    def culprits(self, held: Held) -> tuple[ResourceKey, ...]:
        """Return the resources that shaped what is held back: rules first."""
        found = self._culprits.get(held)
        if found is None:
            scope = self._scopes.scope_named(held.place.scope)
            found = ()
            if scope is not None:
                found = culprits_of(self._mesh, scope, held.place.type_url, held.place.name, held.suspects)
            self._culprits[held] = found
        return found

    def problems(self) -> Iterator[Problem]:
        """Yield one error for each resource of the API that is to blame."""
        told: set[tuple[str, str, tuple[ResourceKey, ...]]] = set()
        for place, held in sorted(self._gate.held.items()):
            culprits = self.culprits(held)
            key = (place.name, held.words, culprits)
            if key in told:  # the same in another scope
                continue
            told.add(key)
            message = f"envoy would refuse {short_name(place.type_url)} {place.name}: {held.words}; {held.instead}"
            objects = [obj for each in culprits if (obj := self._mesh.objects.get(each)) is not None]
            rules = to_blame(objects)
            for obj in rules:
                yield obj.problem("", message)
            if not rules:
                yield Problem("", 0, "", message)

    def report(self, users_of: Callable[[str], list[str]]) -> tuple[QuarantineInfo, ...]:
        """Return everything that is held back, with the proxies that it concerns."""
        return tuple(self._info(place, held, users_of) for place, held in sorted(self._gate.held.items()))

    def _info(self, place: Place, held: Held, users_of: Callable[[str], list[str]]) -> QuarantineInfo:
        objects = [obj for key in self.culprits(held) if (obj := self._mesh.objects.get(key)) is not None]
        return QuarantineInfo(
            type=short_name(place.type_url),
            resource=place.name,
            proxies=tuple(users_of(place.scope)),
            error=held.words,
            instead=held.instead,
            shaped_by=tuple(f"{obj.key} ({obj.origin})" for obj in to_blame(objects)),
        )
