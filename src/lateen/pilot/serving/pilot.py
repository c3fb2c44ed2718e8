"""Pilot without I/O: changes in, what proxies are served out.

Owns the graph and everything derived. `apply` takes one batch of changes of any origin; what it did is told to the
listeners of `source` before it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog

from lateen.api.base import Object, Problem, ResourceKey
from lateen.errors import Unavailable
from lateen.flow import Graph
from lateen.folders.folder import Change
from lateen.pilot.model.authorization import Authorizations
from lateen.pilot.model.authorization_findings import AuthorizationFindings
from lateen.pilot.model.claims import Claims
from lateen.pilot.model.credentials import Credentials
from lateen.pilot.model.envoy_filters import EnvoyFilters, PatchId, parse_patch_id
from lateen.pilot.model.findings import Findings
from lateen.pilot.model.gateway import Gateways
from lateen.pilot.model.inbound import Inbound
from lateen.pilot.model.jwks import JwksSource
from lateen.pilot.model.mesh import Mesh, MeshSettings
from lateen.pilot.model.mixer import MixerRules
from lateen.pilot.model.mixer_findings import MixerFindings
from lateen.pilot.model.names import Names
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.overlaps import Overlaps
from lateen.pilot.model.request_auth import JwksWants, RequestAuths, inline_key_problems
from lateen.pilot.model.rivals import Rivals
from lateen.pilot.model.rule_findings import RuleFindings
from lateen.pilot.model.support import unsupported
from lateen.pilot.model.telemetries import Telemetries
from lateen.pilot.model.telemetry_findings import TelemetryFindings
from lateen.pilot.model.virtual_service_findings import VirtualServiceFindings
from lateen.pilot.registry.services import implied_rows, service_rows
from lateen.pilot.registry.values import Registry, Service, Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.gate import Gate
from lateen.pilot.serving.origins import to_blame
from lateen.pilot.serving.proxy_settings import proxy_settings
from lateen.pilot.serving.quarantine import Quarantine
from lateen.pilot.serving.render import Render
from lateen.pilot.serving.scopes import Scopes
from lateen.pilot.serving.source import MeshSource
from lateen.pilot.translate.patches.bootstrap import bootstrap_patches
from lateen.pilot.translate.patches.check import patch_problems
from lateen.wire.local import BootstrapPatch, ProxySettings

__all__ = ["Pilot"]

log = structlog.get_logger(__name__)


class Pilot:
    """The state of one mesh and what follows from it."""

    def __init__(self, *, trust_domain: str, vips: VipTable, mixer_socket: str = "") -> None:
        """`mixer_socket`: where Mixer listens, as proxies see it; "": there is none."""
        self.graph = Graph()
        self.mesh = Mesh(self.graph, trust_domain)
        self.telemetries = Telemetries(self.mesh)
        self.mixer = MixerRules(self.mesh, mixer_socket)
        self.outbound = Outbound(self.mesh, self.telemetries)
        self.request_auths = RequestAuths(self.mesh)
        self.key_wants = JwksWants()
        self.authorizations = Authorizations(self.mesh)
        self.inbound = Inbound(self.mesh, self.request_auths, self.authorizations, self.telemetries, self.mixer)
        self.gateways = Gateways(
            self.mesh, self.outbound, self.request_auths, self.authorizations, self.telemetries, self.mixer
        )
        self.credentials = Credentials(self.mesh, self.gateways.servers)
        self.render = Render(
            self.mesh,
            outbound=self.outbound,
            inbound=self.inbound,
            gateways=self.gateways,
            credentials=self.credentials,
            names=Names(self.mesh),
            filters=EnvoyFilters(self.mesh),
        )
        self.gate = Gate()
        self.scopes = Scopes(self.mesh, self.outbound, self.render, self.gate)
        self.source = MeshSource(self.mesh, self.scopes, trust_domain=trust_domain)
        self.quarantine = Quarantine(self.mesh, self.scopes, self.gate)
        self.vips = vips
        self._claims = Claims()
        self._overlaps = Overlaps()
        self._refused_bootstraps: dict[str, dict[str, str]] = {}  # proxy -> patch -> why
        self._rivals = Rivals()
        self.findings = Findings(
            {
                "AuthorizationPolicy": AuthorizationFindings(self.mesh, self.authorizations).found,
                "Rule": MixerFindings(self.mesh).found,
                "Telemetry": TelemetryFindings(self.mesh, self.telemetries).found,
                "DestinationRule": RuleFindings(self.mesh).found,
                "VirtualService": VirtualServiceFindings(self.mesh, self.outbound.virtual_services).found,
            }
        )
        self._notes: dict[ResourceKey, tuple[Problem, ...]] = {}  # of resources that are not fully acted on
        self.graph.on_error(self._log_errors)

    def apply(self, changes: Iterable[Change], workloads: Mapping[str, Workload | None] | None = None) -> None:
        """Take one batch: resources that changed, workloads that came, changed or (None) left."""
        changes = list(changes)
        services = [service for change in changes if change.obj is not None for _, service in service_rows(change.obj)]
        # What is written down is reserved before anything is handed out, whatever the order of the files.
        self.vips.reserve(address for service in services for address in service.dialled)
        for workload in (workloads or {}).values():
            if workload is not None:
                services.extend(service for _, service in implied_rows(workload))
        with self.graph.batch():
            for service in services:
                self._give_address(service)
            for change in changes:
                if change.obj is None:
                    self.mesh.objects.delete(change.key)
                else:
                    self.mesh.objects.set(change.key, change.obj)
                self._note(change)
            for name, workload in (workloads or {}).items():
                if workload is None:
                    self.mesh.workloads.delete(name)
                else:
                    self.mesh.workloads.set(name, workload)
        for name, workload in (workloads or {}).items():
            if workload is not None:
                self.source.recheck(name, workload)
        self.source.flush()
        for change in changes:
            self.findings.follow(change.key, exists=change.obj is not None)

    def take_keys(self, keys: Mapping[JwksSource, str]) -> None:
        """Take the usable keys of sources, as JSON; "": none are had, so that tokens they would check are refused."""
        with self.graph.batch():
            for source, text in keys.items():
                if text:
                    self.request_auths.keys.set(source, text)
                else:
                    self.request_auths.keys.delete(source)
        self.source.flush()

    def _note(self, change: Change) -> None:
        self.key_wants.replace(change.key, change.obj)
        self._claims.replace(change.key, change.obj)
        self._rivals.replace(change.key, change.obj)
        self._overlaps.replace(change.key, change.obj)
        # Kept, not gathered when asked: `problems` is asked after each change, and must not go over all resources.
        found: list[Problem] = []
        if change.obj is not None:
            found.extend(unsupported(change.obj))
            found.extend(inline_key_problems(change.obj))
            found.extend(patch_problems(change.obj))
        if found:
            self._notes[change.key] = tuple(found)
        else:
            self._notes.pop(change.key, None)

    def _give_address(self, service: Service) -> None:
        if not service.wants_vip or self.mesh.vips.get(service.hostname) is not None:
            return
        try:
            address = self.vips.address_of(service.hostname, entry=service.registry is Registry.SERVICE_ENTRY)
        except Unavailable as error:
            log.error("no virtual ip left", service=service.hostname, error=str(error))
            return
        self.mesh.vips.set(service.hostname, address)

    def problems(self) -> list[Problem]:
        """Return what is not acted on, refers to nothing, fails to translate, or was rejected by a proxy."""
        found = [problem for notes in self._notes.values() for problem in notes]
        found.extend(self._idle_patches())
        found.extend(self._claims.problems())
        found.extend(self._overlaps.problems())
        found.extend(self._refused_patches())
        found.extend(self._rivals.problems())
        for notes in self.scopes.notes.values():
            for note in notes:
                noted = self.mesh.objects.get(note.key)
                if noted is not None:
                    found.append(noted.problem(note.path, note.message, note.level))
        found.extend(self.findings.problems(self.mesh.objects.get))
        for rejection in self.source.rejections.values():
            message = f"proxy {rejection.proxy} rejected {rejection.name}: {rejection.error}"
            culprits = [obj for key in rejection.culprits if (obj := self.mesh.objects.get(key)) is not None]
            rules = to_blame(culprits)
            found.extend(obj.problem("", message) for obj in rules)
            if not rules:
                found.append(Problem("", 0, "", message))
        found.extend(self.quarantine.problems())
        for (collection, key), error in self.graph.errors.items():
            culprit: Object | None = self.mesh.objects.get(key) if collection is self.mesh.services else None
            message = f"cannot be translated ({collection.name} of {key}): {error}; what was served before stays"
            found.append(culprit.problem("", message) if culprit is not None else Problem("", 0, "", message))
        return found

    # ---- bootstraps

    def bootstrap_for(self, workload: Workload) -> tuple[BootstrapPatch, ...]:
        """Return the patches to the bootstrap of a proxy that starts now."""
        labels = tuple(sorted(workload.labels.items()))
        return bootstrap_patches(self.render.filters.bootstrap.peek((workload.kind, workload.namespace, labels)))

    def proxy_for(self, workload: Workload) -> ProxySettings:
        """Return how the proxy of a workload that starts now is run."""
        settings: MeshSettings = self.mesh.settings.peek("mesh")
        proxy = self.mesh.proxy.peek((workload.namespace, tuple(sorted(workload.labels.items()))))
        return proxy_settings(proxy, merge_metrics=settings.merge_metrics)

    def note_bootstrap(self, proxy: str, verdicts: Mapping[str, str]) -> None:
        """Keep what a proxy's Envoy had against patches of its bootstrap."""
        refused = {patch: reason for patch, reason in verdicts.items() if reason}
        if refused:
            self._refused_bootstraps[proxy] = refused
        else:
            self._refused_bootstraps.pop(proxy, None)

    def _refused_patches(self) -> Iterator[Problem]:
        for proxy, refused in self._refused_bootstraps.items():
            for text, reason in refused.items():
                patch = parse_patch_id(text)
                obj = self.mesh.objects.get(patch.key) if patch is not None else None
                if patch is not None and obj is not None:
                    yield obj.problem(patch.path, f"proxy {proxy} would not start with it and runs without: {reason}")

    def _idle_patches(self) -> Iterator[Problem]:
        """Yield which patches of proxies in use do nothing: those that match nothing, and those that cannot act."""
        ledger = self.scopes.ledger
        for patch in sorted(ledger.idle):
            if (obj := self.mesh.objects.get(patch.key)) is not None and not self.is_faulty(patch):
                yield obj.problem(patch.path, "matches nothing in any proxy that it is for", "warning")
        for patch, reason in sorted(ledger.failures):
            if (obj := self.mesh.objects.get(patch.key)) is not None:
                count = ledger.failures[patch, reason]
                yield obj.problem(patch.path, f"is left out of {count} resources: {reason}")

    def is_faulty(self, patch: PatchId) -> bool:
        """Tell whether a patch is left out because of an error in it, which is told by itself."""
        notes = self._notes.get(patch.key, ())
        return any(note.level == "error" and note.field.startswith(f"{patch.path}.") for note in notes)

    @staticmethod
    def _log_errors(changes: list[tuple[Any, Any, Exception | None]]) -> None:
        for collection, key, error in changes:
            if error is not None:
                log.error(
                    "derived value failed", collection=getattr(collection, "name", ""), key=str(key), exc_info=error
                )
