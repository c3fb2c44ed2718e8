"""Pairs of workloads of a real mesh and a load between each, for figures of the data plane.

The mesh is what a user has: `lateen up`, `lateen run`, real Envoys, mutual TLS. A server is one more Envoy that answers
by itself, because it costs little and comes with Lateen. The load is h2load's (Debian: nghttp2-client), inside the
client's network; it ends by itself. Pairs take turns, so that both sides of a ratio come from the same minutes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles

from tests.e2e.harness import MeshRun, eventually

from bench.processes import cpu_seconds
from lateen.wire.envoy import find_envoy

__all__ = ["Measured", "Pairs", "have_load_generator", "live_pairs"]

PORT = 9080
LOAD_SECONDS_AT_MOST = 60.0
CONNECTIONS = 8
APART_MS = 11  # no multiple of what is between two requests of one connection


@dataclass(frozen=True, slots=True)
class Measured:
    """One load: CPU of each proxy in seconds a request, and each request's time in microseconds by its status."""

    requests: int
    seconds: float
    client_cpu: float
    server_cpu: float
    other_cpu: float  # of the process that was looked at beside them, all of it
    times: dict[int, list[int]] = field(repr=False)

    @property
    def proxies(self) -> float:
        """CPU seconds of both proxies for one request."""
        return (self.client_cpu + self.server_cpu) / self.requests

    def percentile(self, percent: int, status: int = 200) -> float:
        """Return a percentile of the times of requests that ended with `status`, in milliseconds."""
        return quantiles(self.times[status], n=100, method="inclusive")[percent - 1] / 1000


class Pairs:
    """Clients `client-NAME` and servers `server-NAME` in a mesh."""

    def __init__(self, mesh: MeshRun, names: Sequence[str]) -> None:
        self.mesh = mesh
        found = {info["name"]: int(info["envoyPid"]) for info in mesh.status()["workloads"]}
        self._pids = {name: (found[f"client-{name}-v1"], found[f"server-{name}-v1"]) for name in names}

    def mixer(self) -> int:
        """Return Mixer's pid, 0 while it does not run."""
        return int((self.mesh.status().get("mixer") or {}).get("pid", 0))

    def decisions(self) -> int:
        return int((self.mesh.status().get("mixer") or {}).get("decisions", 0))

    def probe(self, name: str) -> int:
        """Send one request; return its status."""
        argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://server-{name}:{PORT}/"]
        return int(self.mesh.inside(f"client-{name}-v1", argv).stdout or b"0")

    def put(self, resources: str) -> None:
        """Have these resources in force and no others, a moment later."""
        self.mesh.write("resources.yaml", resources)

    def load(self, name: str, *, requests: int, per_second: int = 0, beside: int = 0) -> Measured:
        """Send so many requests, as fast as it goes or `per_second`. `beside`: a further process to look at."""
        log = self.mesh.root / f"load-{time.monotonic_ns()}.tsv"
        argv = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-n{requests}", f"--log-file={log}"]
        if per_second:
            # Connections begin one after the other: otherwise all of them would ask at the same moments, for ever.
            argv += [f"--rps={per_second / CONNECTIONS}", "-r1", f"--rate-period={APART_MS}ms"]
        argv.append(f"http://server-{name}:{PORT}/")
        pids = (*self._pids[name], beside)
        before = [cpu_seconds(pid) if pid else 0.0 for pid in pids]
        began = time.monotonic()
        done = self.mesh.inside(f"client-{name}-v1", argv, seconds=LOAD_SECONDS_AT_MOST)
        took = time.monotonic() - began
        spent = [cpu_seconds(pid) - was if pid else 0.0 for pid, was in zip(pids, before, strict=True)]
        times: dict[int, list[int]] = {}
        for line in log.read_text().splitlines():
            _, status, microseconds = line.split("\t")[:3]
            times.setdefault(int(status), []).append(int(microseconds))
        log.unlink()
        answered = sum(len(some) for some in times.values())
        if answered < requests:
            raise RuntimeError(f"{answered} of {requests} requests were answered: {done.stdout!r} {done.stderr!r}")
        return Measured(answered, took, *spent, times)


def have_load_generator() -> bool:
    return all(shutil.which(program) is not None for program in ("h2load", "curl", "nsenter"))


@contextmanager
def live_pairs(names: Sequence[str], resources: str, *, extra: Sequence[str] = ()) -> Iterator[Pairs]:
    """Start the mesh with a pair of each name; end it, and see that it is gone."""
    mesh = MeshRun(extra=extra)
    try:
        mesh.config.joinpath("resources.yaml").write_text(resources)
        mesh.up()
        answers = mesh.root / "answers.yaml"
        answers.write_text(_ANSWERS)
        envoy = [str(find_envoy()), "-c", str(answers), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        for name in names:
            mesh.workload(f"server-{name}", "v1", envoy, port=f"http:{PORT}")
            mesh.workload(f"client-{name}", "v1", ["sleep", "3600"], port="")
        mesh.wait_ready(*(f"{side}-{name}-v1" for name in names for side in ("server", "client")))
        pairs = Pairs(mesh, names)
        for name in names:
            eventually(lambda name=name: pairs.probe(name) == 200, what=f"first request of {name}")  # type: ignore[misc]
        yield pairs
    finally:
        mesh.close()


_ANSWERS = """
static_resources:
  listeners:
  - address: {socket_address: {address: 0.0.0.0, port_value: 9080}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: answers
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response:
                  status: 200
                  body: {inline_string: "a hundred bytes or so, as small answers are: and a few more"}
"""
