"""Measure the parts alone: the engine, the translation, the signing. Medians over several rounds, one thread."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from bench import mesh
from bench.rows import Row
from bench.tls import make_csr
from lateen.api.decode import decode_documents
from lateen.citadel.authority import Authority
from lateen.flow import Graph
from lateen.folders.folder import Change
from lateen.pilot.model.mesh import View
from lateen.pilot.registry.registrations import to_workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.translate.clusters import build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.listeners import build_outbound_listener
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.translate.routes import build_virtual_host, splice_route_config
from lateen.wire.spiffe import SpiffeId

__all__ = ["micro_rows"]

SERVICES = 200
VIEW = View(kind="sidecar", namespace="default")


def micro_rows(*, quick: bool) -> list[Row]:
    rounds = 5 if quick else 15
    return [*_flow(rounds), *_translation(rounds), *_sources(rounds), *_signing(rounds)]


def _timed(run: Callable[[], Any], rounds: int, *, per: int = 1) -> float:
    """Return the median time of one of the `per` things that `run` does, in microseconds."""
    run()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return median(taken) / per * 1e6


# ---- the engine


def _flow(rounds: int) -> list[Row]:
    rows = []
    costs = {}
    for size in (1_000, 10_000):
        graph = Graph()
        source = graph.input("source")
        with graph.batch():
            for key in range(size):
                source.set(key, 0)
        doubled = graph.derive("doubled", lambda read, key: read.get(source, key) * 2)  # noqa: B023  # of this graph
        began = time.perf_counter()
        for key in range(size):
            doubled.live(key)
        first = (time.perf_counter() - began) / size * 1e6
        value = [0]

        def change() -> None:
            for _ in range(100):
                value[0] += 1  # noqa: B023  # of this graph
                with graph.batch():  # noqa: B023
                    source.set(size // 2, value[0])  # noqa: B023

        costs[size] = _timed(change, rounds, per=100)
    rows.append(Row("engine: an output made for the first time", "us", first))
    rows.append(Row("engine: one input changed, 10,000 outputs live", "us", costs[10_000]))
    rows.append(Row("engine: the same against 1,000 outputs live", "ratio", costs[10_000] / costs[1_000]))
    return rows


# ---- translation: the model's values in, bytes out


def _pilot() -> Pilot:
    pilot = Pilot(trust_domain="cluster.local", vips=VipTable())
    texts = [mesh.service(number) + "---\n" + mesh.destination_rule(number) for number in range(SERVICES)]
    changes = [
        Change(obj.key, obj)
        for text in [*texts, mesh.virtual_service(0, 10)]
        for obj in decode_documents(text.encode(), "bench.yaml").objects
    ]
    pilot.apply(changes, {name: to_workload(mesh.registration(name)) for name in mesh.workload_names(SERVICES)})
    return pilot


def _translation(rounds: int) -> list[Row]:
    pilot = _pilot()
    outbound = pilot.outbound
    hosts = [f"{mesh.service_name(number)}.default.svc.cluster.local" for number in range(SERVICES)]
    clusters = [entry for host in hosts for entry in outbound.clusters.peek((VIEW, host))]
    names = [f"outbound|{mesh.PORT}||{host}" for host in hosts]
    endpoints = [found for name in names if (found := outbound.endpoints.peek((VIEW, name))) is not None]
    found = outbound.route_config.peek((VIEW, str(mesh.PORT)))
    assert found is not None
    shell, keys = found
    virtual_hosts = [host for key in keys if (host := outbound.virtual_host.peek(key)) is not None]
    spliced = [(host.domains, build_virtual_host(host).SerializeToString(deterministic=True)) for host in virtual_hosts]
    listener = outbound.port_listener.peek((VIEW, mesh.PORT))
    inbound = pilot.inbound.listeners.peek(mesh.workload_names(1)[0])
    assert listener is not None
    assert inbound is not None
    parts: list[tuple[str, Callable[[], Any], int]] = [
        ("cluster", lambda: [resource_of(build_outbound_cluster(one)) for one in clusters], len(clusters)),
        ("endpoints of a cluster", lambda: [resource_of(build_endpoints(one)) for one in endpoints], len(endpoints)),
        (
            "virtual host",
            lambda: [build_virtual_host(one).SerializeToString(deterministic=True) for one in virtual_hosts],
            len(virtual_hosts),
        ),
        (f"route configuration of {len(spliced)} hosts, spliced", lambda: splice_route_config(shell, spliced), 1),
        ("outbound listener", lambda: resource_of(build_outbound_listener(listener)), 1),
        ("inbound listeners of a workload", lambda: [resource_of(x) for x in build_inbound_listeners(inbound)], 1),
        ("inbound clusters of a workload", lambda: [resource_of(x) for x in build_inbound_clusters(inbound)], 1),
    ]
    return [Row(f"translate: {name}", "us", _timed(run, rounds, per=per)) for name, run, per in parts]


# ---- sources


def _sources(rounds: int) -> list[Row]:
    text = mesh.virtual_service(0, 10).encode()
    many = "---\n".join(mesh.service(n) + "---\n" + mesh.destination_rule(n) for n in range(50)).encode()
    return [
        Row("decode: one VirtualService", "us", _timed(lambda: decode_documents(text, "bench.yaml"), rounds)),
        Row("decode: a resource among 100", "us", _timed(lambda: decode_documents(many, "bench.yaml"), 3, per=100)),
    ]


# ---- certificates


def _signing(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.load_or_create(Path(folder), "cluster.local")
        _, csr = make_csr()
        who = SpiffeId("cluster.local", "default", mesh.ACCOUNT)
        each = _timed(lambda: [authority.issue(csr, who, timedelta(hours=1)) for _ in range(20)], rounds, per=20)
    return [Row("certificates signed in process", "per_s", 1e6 / each)]
