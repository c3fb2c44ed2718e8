"""The control plane's metrics, as Prometheus' text: docs/operations/README.md lists them.

Names are Istio's where they mean the same. Labels are few and bounded: kinds of resources, xDS types, levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lateen import __version__
from lateen.citadel.rotation import Phase
from lateen.pilot.serving.expiry import expiry_metrics, link_expiries
from lateen.pilot.taste.taster import TasteStats
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, NDS, RDS, SDS, short_name

if TYPE_CHECKING:
    from lateen.pilot.serving.control_plane import ControlPlane

__all__ = ["metrics_text"]

# Counters of the certificate service, by what they are called there.
COUNTERS = {
    "csr_count": "requests for certificates",
    "authentication_failure_count": "of them, from callers who did not prove who they are",
    "csr_parsing_err_count": "of them, with a CSR that is refused",
    "csr_sign_err_count": "of them, that could not be signed",
    "success_cert_issuance_count": "certificates issued",
}
_TYPES = (CDS, EDS, LDS, RDS, SDS, ECDS, NDS)
Samples = Mapping[str, float]  # labels as they are written -> value


def metrics_text(plane: ControlPlane) -> str:
    """Return every metric, each with its type and help."""
    return "".join(_lines(plane)) + plane.mixer.metrics()


def _lines(plane: ControlPlane) -> Iterator[str]:
    pilot, stats = plane.pilot, plane.ads.stats
    taste = plane.taster.stats if plane.taster is not None else TasteStats()
    by_type = {name: stats.of(type_url) for type_url in _TYPES if (name := short_name(type_url).lower())}
    held = Counter(short_name(place.type_url).lower() for place in pilot.gate.held)
    refused = Counter(short_name(key[1]).lower() for key in pilot.source.rejections)
    problems = Counter(
        (problem.resource.kind if problem.resource is not None else "", problem.level) for problem in plane.problems()
    )
    yield from _metric("istio_build", "gauge", "1, with the version", {_labels(component="pilot", tag=__version__): 1})
    yield from _metric("pilot_xds", "gauge", "open xDS streams", {"": len(plane.ads.status())})
    yield from _metric("pilot_services", "gauge", "hostnames that are served", {"": plane.reporter.services()})
    kinds = Counter(key.kind for key, _ in pilot.mesh.objects.items())
    yield from _metric("lateen_resources", "gauge", "resources in force", _by("kind", kinds))
    yield from _metric(
        "lateen_configuration_problems",
        "gauge",
        "what lateen status lists, by kind of the resource",
        {_labels(kind=kind, level=level): count for (kind, level), count in sorted(problems.items())},
    )
    pushes = {name: one.responses for name, one in by_type.items()}
    yield from _metric("pilot_xds_pushes", "counter", "responses sent", _by("type", pushes))
    acks = {name: one.acks for name, one in by_type.items()}
    yield from _metric("lateen_xds_acks_total", "counter", "responses that proxies took", _by("type", acks))
    nacks = {name: one.nacks for name, one in by_type.items()}
    yield from _metric("lateen_xds_nacks_total", "counter", "responses that proxies refused", _by("type", nacks))
    yield from _metric("pilot_total_xds_rejects", "counter", "the same, of all types", {"": sum(nacks.values())})
    yield from _metric(
        "lateen_rejected_resources", "gauge", "resources that some proxy refuses now", _by("type", refused, nacks)
    )
    yield from _metric(
        "lateen_quarantined_resources", "gauge", "resources held back after tasting", _by("type", held, nacks)
    )
    states: Counter[str] = Counter(plane.keys.states().values())
    yield from _metric(
        "lateen_jwks_sources",
        "gauge",
        "places that rules have keys of issuers fetched from, by whether they are had",
        _by("state", states, dict.fromkeys(("fresh", "kept", "none"), 0)),
    )
    yield from _metric(
        "lateen_jwks_fetches_total",
        "counter",
        "fetches of keys of issuers, by how they ended",
        _by("outcome", plane.keys.outcomes, {"ok": 0}),
    )
    for name, kind, text, value in (
        ("lateen_tasted_total", "counter", "resources that the tasting Envoy judged", taste.tasted),
        ("lateen_taste_refused_total", "counter", "of them, those that it refused", taste.refused),
        ("lateen_untasted_total", "counter", "resources served without its verdict", taste.untasted),
        ("lateen_taste_seconds_sum", "counter", "time spent on tasting", taste.seconds),
        ("lateen_taste_seconds_count", "counter", "rounds of tasting", taste.rounds),
        ("lateen_tasting_envoy_starts_total", "counter", "starts of the tasting Envoy", taste.starts),
    ):
        yield from _metric(name, kind, text, {"": value})
    for name, value in plane.certificates.service.counters.as_dict().items():
        yield from _metric(f"citadel_server_{name}", "counter", COUNTERS[name], {"": value})
    lost = {"": plane.certificates.audit.lost}
    yield from _metric(
        "lateen_audit_lines_lost_total", "counter", "lines of the audit trail that were not written", lost
    )
    away = {"": plane.certificates.turned_away_count}
    yield from _metric(
        "lateen_connections_turned_away_total", "counter", "connections that a door did not let in", away
    )
    for name, text, value in expiry_metrics(plane.certificates.roots):
        yield from _metric(name, "gauge", text, {"": value})
    ends = link_expiries(plane.certificates.roots)
    text = "when each link of what signs expires, in seconds since 1970"
    yield from _metric("lateen_ca_expiry_timestamp", "gauge", text, _by("link", ends))
    yield from _metric(
        "lateen_ca_rotation",
        "gauge",
        "1 for the phase that the rotation of what signs is in",
        {_labels(phase=phase.value): int(phase is plane.certificates.roots.state.phase) for phase in Phase},
    )
    mixer = plane.mixer
    yield from _metric("lateen_mixer_up", "gauge", "1 while Mixer runs", {"": int(mixer.pid > 0)})
    yield from _metric("lateen_mixer_starts_total", "counter", "starts of Mixer", {"": mixer.starts})
    report = plane.certificates.root_service.tell()
    yield from _metric(
        "lateen_trust_bundle_workloads",
        "gauge",
        "registered workloads by whether they have proven to use the current trust bundle",
        {_labels(proven="true"): report.trusting, _labels(proven="false"): report.workloads - report.trusting},
    )


def _metric(name: str, kind: str, text: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, value in samples.items():
        yield f"{name}{labels} {value:g}\n" if isinstance(value, float) else f"{name}{labels} {value}\n"


def _by(label: str, values: Mapping[str, int], known: Mapping[str, int] | None = None) -> Samples:
    """Return one sample a value of a label; those of `known` are there even when they are 0."""
    return {_labels(**{label: name}): values.get(name, 0) for name in sorted({*values, *(known or {})})}


def _labels(**labels: str) -> str:
    inner = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""
