"""What the control plane tells people: the answers behind `lateen status` and `lateen proxy-status`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from lateen import __version__
from lateen.api.base import Problem
from lateen.pilot.model.envoy_filters import Patch
from lateen.pilot.serving.expiry import leaf_problems
from lateen.wire.local import (
    ControlPlaneInfo,
    PatchInfo,
    ProblemInfo,
    ProxyInfo,
    ProxyReport,
    Query,
    Registration,
    StatusReport,
    TypeInfo,
    WorkloadInfo,
)
from lateen.wire.spiffe import SpiffeId

if TYPE_CHECKING:
    from lateen.pilot.serving.control_plane import ControlPlane

__all__ = ["Reporter"]


class Reporter:
    """Reads a control plane; changes nothing."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def status(self, query: Query) -> StatusReport:
        plane = self._plane
        connected = {proxy.name for proxy in self.proxies(Query()).proxies if proxy.version}
        problems = [*plane.problems(), *leaf_problems(plane.registrations)]
        return StatusReport(
            control_plane=ControlPlaneInfo(
                pid=os.getpid(),
                version=__version__,
                started=rfc3339(plane.started),
                config=str(plane.options.config),
                trust_domain=plane.options.trust_domain,
                root_expires=rfc3339(plane.certificates.authority.root_not_after),
                network=plane.network,
                resources=len(list(plane.pilot.mesh.objects.items())),
                services=self.services(),
                proxies=len(connected),
            ),
            mixer=plane.mixer.info(),
            workloads=tuple(
                self._workload(registration, registration.name in connected)
                for registration in plane.registrations
                if query.workload in ("", registration.name)
            ),
            errors=tuple(_problem(problem) for problem in problems if problem.level == "error"),
            warnings=tuple(_problem(problem) for problem in problems if problem.level != "error"),
        )

    def services(self) -> int:
        """Return how many hostnames are known."""
        mesh = self._plane.pilot.mesh
        return len({key.hostname for key, _ in (*mesh.services.items(), *mesh.implied.items())})

    def proxies(self, query: Query) -> ProxyReport:
        plane = self._plane
        streams: dict[str, list[ProxyInfo]] = {}
        for stream in plane.ads.status():
            if query.workload in ("", stream.name):
                streams.setdefault(stream.name, []).append(stream)
        held = plane.pilot.quarantine.report(plane.pilot.source.users_of)
        bootstraps = {registration.name: registration.bootstrap for registration in plane.registrations}
        return ProxyReport(
            proxies=tuple(
                msgspec.structs.replace(
                    _one_proxy(streams[name]), patches=self._patches(name, bootstraps.get(name, {}))
                )
                for name in sorted(streams)
            ),
            quarantined=tuple(one for one in held if query.workload in ("", *one.proxies)),
        )

    def _patches(self, proxy: str, bootstrap: Mapping[str, str]) -> tuple[PatchInfo, ...]:
        """Return what EnvoyFilters do to a proxy; `bootstrap` is what became of those that it started with."""
        pilot = self._plane.pilot
        return tuple(
            PatchInfo(
                filter=f"{patch.id.namespace}/{patch.id.name}",
                index=patch.id.index,
                apply_to=patch.apply_to,
                place=f"{obj.origin.file}:{obj.line_of(patch.id.path)}",
                resources=counts,
                note=self._patch_note(patch, bootstrap),
            )
            for patch, counts in pilot.source.patch_counts(proxy)
            if (obj := pilot.mesh.objects.get(patch.id.key)) is not None
        )

    def _patch_note(self, patch: Patch, bootstrap: Mapping[str, str]) -> str:
        if self._plane.pilot.is_faulty(patch.id):
            return "left out: its value has an error"
        return _bootstrap_note(bootstrap.get(str(patch.id))) if patch.apply_to == "BOOTSTRAP" else ""

    def _workload(self, registration: Registration, connected: bool) -> WorkloadInfo:
        identity = str(SpiffeId(self._plane.options.trust_domain, registration.namespace, registration.service_account))
        return WorkloadInfo(
            name=registration.name,
            kind=registration.kind,
            namespace=registration.namespace,
            service=registration.service,
            version=registration.version,
            pid=registration.pid,
            app_pid=registration.app_pid,
            envoy_pid=registration.envoy_pid,
            ip=registration.ip,
            ports=registration.ports,
            mode=registration.mode,
            identity=identity,
            ready=registration.ready,
            group=registration.group,
            waits_for=registration.waits_for,
            connected=connected,
            remote=registration.remote,
            certificate=registration.certificate,
        )


def _bootstrap_note(verdict: str | None) -> str:
    if verdict is None:
        return "acts when the proxy starts again"
    return f"left out: {verdict}" if verdict else "applied"


def _one_proxy(streams: list[ProxyInfo]) -> ProxyInfo:
    """Combine the streams of one workload: its Envoy's (which tells a version), and its agent's for names."""
    main = next((stream for stream in streams if stream.version), streams[0])
    types: dict[str, TypeInfo] = {}
    for stream in (main, *(other for other in streams if other is not main)):
        for name, info in stream.types.items():
            if info.state != "NOT SENT":
                types.setdefault(name, info)
    return msgspec.structs.replace(main, types=types)


def rfc3339(moment: datetime) -> str:
    """Return a time as people and programs read it, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _problem(problem: Problem) -> ProblemInfo:
    return ProblemInfo(
        file=problem.file,
        line=problem.line,
        field=problem.field,
        message=problem.message,
        level=problem.level,
        resource=str(problem.resource) if problem.resource is not None else "",
    )
