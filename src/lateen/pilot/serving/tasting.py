"""Have everything that is staged judged, then served: the second half of each batch that brought something new.

One task at a time works off what is staged; what comes meanwhile joins it, so that a batch is served whole, after all
that it holds is judged. Fails open: without a taster, or when it gives no verdict in time, resources are served as they
are and counted. Every proxy still judges for itself and keeps its last good version of what it refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from lateen.errors import LateenError
from lateen.pilot.model.envoy_filters import PatchId
from lateen.pilot.serving.gate import Gate, Patch, Place
from lateen.pilot.serving.scopes import Scopes
from lateen.pilot.serving.source import MeshSource
from lateen.pilot.taste.routes import config_paths, each_host, each_route, with_last_hosts
from lateen.pilot.translate.patches.outcome import MarkedResource
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import RDS

__all__ = ["Judge", "Tasting"]

RETRY_SECONDS: Final = 30.0  # after a taster that could not be had, before it is asked again

log = structlog.get_logger(__name__)


class Judge(Protocol):
    """Who judges; `lateen.pilot.taste.taster.Taster` is one."""

    async def taste(self, wanted: Sequence[tuple[str, Resource]], /) -> Mapping[str, str]: ...


class Tasting:
    """Owns the task that judges. `close` ends it."""

    def __init__(
        self,
        source: MeshSource,
        scopes: Scopes,
        gate: Gate,
        judge: Judge,
        *,
        on_verdicts: Callable[[], None] = lambda: None,
        on_served: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_served` is called when a batch that was tasted is served.

        `on_verdicts` is called when other resources are held back than before, or the taster comes or goes.
        """
        self._source = source
        self._scopes = scopes
        self._gate = gate
        self._judge = judge
        self._on_verdicts = on_verdicts
        self._on_served = on_served
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._down_until = 0.0
        self.fault = ""  # why resources are served untasted now
        gate.active = True
        scopes.on_staged = self._wake
        source.judged_by(self._settled)

    async def close(self) -> None:
        self._gate.active = False
        self._scopes.on_staged = None
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tasting")

    async def _settled(self) -> None:
        while self._scopes.open_questions():
            self._wake()
            assert self._task is not None
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Judge until nothing staged is open, then serve it."""
        scopes = self._scopes
        while True:
            scopes.settle()
            if unjudged := scopes.unjudged():
                await self._taste(unjudged)
            elif unpatched := scopes.unpatched():
                for place, wanted, last in unpatched:
                    self._gate.patch(place, await self._part_from(place, wanted, last))
            else:
                break
        self._source.release()
        self._on_served()
        if self._gate.changed:
            self._gate.changed = False
            self._on_verdicts()

    async def _taste(self, wanted: Sequence[tuple[str, Resource]]) -> None:
        book = self._gate.book
        verdicts: Mapping[str, str] = {}
        fault = self.fault
        if self._clock() >= self._down_until:
            fault = ""
            try:
                verdicts = await self._judge.taste(wanted)
            except LateenError as error:
                fault = str(error)
            except Exception as error:  # a fault of ours must not stop configuration from being served
                log.exception("tasting failed")
                fault = f"internal error: {error}"
            if fault:
                self._down_until = self._clock() + RETRY_SECONDS
        for _, resource in wanted:
            words = verdicts.get(resource.version)
            if words is None:
                book.waive(resource.version)
            else:
                book.write(resource.version, words)
        if fault != self.fault:
            if fault:
                log.error("resources are served untasted", reason=fault, again_in_seconds=RETRY_SECONDS)
            self.fault = fault
            self._gate.changed = True

    async def _part_from(self, place: Place, wanted: Resource, last: Resource | None) -> Patch:
        """Find what is bad of a refused resource, and what to serve instead of it."""
        patch = await self._without_patches(place, wanted, last) if isinstance(wanted, MarkedResource) else None
        if patch is None and place.type_url == RDS:
            return await self._take_apart(wanted, last)
        return patch or Patch(wanted.version, last.version if last is not None else "", None)

    async def _without_patches(self, place: Place, wanted: MarkedResource, last: Resource | None) -> Patch | None:
        """Find the patches of EnvoyFilters that make a resource bad; None when it is bad without them.

        They are put in one after the other, in their order, and stay where Envoy takes the result. What is served is
        the resource without the bad patches, so that they hold up nothing else, policies least of all. Only where
        earlier versions of theirs act in the last good version, that stays.
        """
        if wanted.again is None:
            return None
        without = frozenset(wanted.mark.touched)
        best = wanted.again(without)
        words = ""
        bad = []
        if best is None or await self._word(place.type_url, best):
            return None
        for patch in wanted.mark.touched:
            candidate = wanted.again(without - {patch})
            said = await self._word(place.type_url, candidate) if candidate is not None else ""
            if said:
                bad.append(patch)
                words = words or said
            else:
                without -= {patch}
                best = candidate
        acted = last.mark.touched if isinstance(last, MarkedResource) else ()
        spared = bool(bad) and not set(bad) & set(acted)
        return Patch(
            wanted.version,
            last.version if last is not None else "",
            best if spared or self._gate.stands_in(place, last) else None,
            tuple(f"{patch.key} {patch.path}" for patch in bad),
            words,
            tuple(_path_of(patch) for patch in bad),
        )

    async def _word(self, type_url: str, resource: Resource) -> str:
        return (await self._verdicts([resource], type_url))[resource.version]

    async def _verdicts(self, resources: Sequence[Resource], type_url: str = RDS) -> dict[str, str]:
        """Return Envoy's words against each resource of one type, by version."""
        book = self._gate.book
        unknown = {r.version: (type_url, r) for r in resources if book.verdict(r.version) is None}
        if unknown:
            await self._taste(list(unknown.values()))
        return {resource.version: book.verdict(resource.version) or "" for resource in resources}

    async def _take_apart(self, wanted: Resource, last: Resource | None) -> Patch:
        """Find the bad virtual hosts of a refused route configuration and what to serve instead of the whole."""
        hosts = each_host(wanted)
        verdicts = await self._verdicts(list(hosts.values()))
        bad = [name for name, alone in hosts.items() if verdicts[alone.version]]
        served = last.version if last is not None else ""
        if not bad:  # each is good alone: they are refused for what they are together
            return Patch(wanted.version, served, None)
        patched = with_last_hosts(wanted, bad, last)
        if (await self._verdicts([patched]))[patched.version]:
            return Patch(wanted.version, served, None)
        suspects: set[str] = set()
        words = verdicts[hosts[bad[0]].version]
        for name in bad:
            routes = each_route(hosts[name])
            own = await self._verdicts(routes)
            guilty = [route for route in routes if own[route.version]] or [hosts[name]]
            suspects.update(path for route in guilty for path in config_paths(RDS, route))
        return Patch(wanted.version, served, patched, tuple(bad), words, tuple(sorted(suspects)))


def _path_of(patch: PatchId) -> str:
    """Return how metadata would name the EnvoyFilter of a patch: see `parts.config_path`."""
    return f"/apis/networking.istio.io/v1alpha3/namespaces/{patch.namespace}/envoy-filter/{patch.name}"
