"""Measure large routing: 1,000 routes in one VirtualService, 200 VirtualServices on one gateway. In process.

A change is what `Pilot.apply` does with one decoded resource while a proxy of the kind is connected: from the object to
the bytes that would be sent. Memory is what the process grew by; the resource's own objects are part of it.
"""

from __future__ import annotations

import gc
import time
from statistics import median

from bench import mesh
from bench.processes import rss_bytes
from bench.rows import Row
from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.registry.registrations import to_workload
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.scopes import RDS
from lateen.pilot.xds.source import Delta, Identity, NodeInfo, Proxy

__all__ = ["routing_rows"]

ROUTES = 1_000
VIRTUAL_SERVICES = 200
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""


def many_routes(weight: int) -> str:
    """Return one VirtualService of `ROUTES` routes by path; the weight of one in the middle is the change."""
    name = mesh.service_name(0)
    weights = [weight if number == ROUTES // 2 else 50 for number in range(ROUTES)]
    rules = "".join(
        f"  - match: [{{uri: {{prefix: /path/{number}/}}, headers: {{x-tenant: {{exact: t{number % 17}}}}}}}]\n"
        f"    route:\n"
        f"    - {{destination: {{host: {name}, subset: v1}}, weight: {share}}}\n"
        f"    - {{destination: {{host: {name}, subset: v2}}, weight: {100 - share}}}\n"
        for number, share in enumerate(weights)
    )
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: many}}\n"
        f"spec:\n  hosts: [{name}]\n  http:\n{rules}"
    )


def at_the_edge(number: int, timeout_seconds: int) -> str:
    name = mesh.service_name(number)
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: edge-{number:03d}}}\n"
        f"spec:\n  hosts: [host-{number:03d}.example.com]\n  gateways: [edge]\n  http:\n"
        f"  - match: [{{uri: {{prefix: /api/}}}}]\n    timeout: {timeout_seconds}s\n"
        f"    route: [{{destination: {{host: {name}, subset: v1}}}}]\n"
        f"  - route: [{{destination: {{host: {name}}}}}]\n"
    )


class _Sent:
    """Counts what a proxy would be sent."""

    def __init__(self) -> None:
        self.bytes = 0
        self.resources = 0

    def on_batch(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self.resources += len(delta.changed)
            self.bytes += sum(len(resource.body) for resource in delta.changed)

    def on_scope(self, proxy: Proxy) -> None:
        """Proxies keep their scope here."""


class _Mesh:
    """A Pilot with services and one connected proxy."""

    def __init__(self, services: int) -> None:
        self.pilot = Pilot(trust_domain="cluster.local", vips=VipTable())
        self.sent = _Sent()
        self.pilot.source.subscribe(self.sent)
        self.pilot.source.ready = True
        self.apply("---\n".join(mesh.service(n) + "---\n" + mesh.destination_rule(n) for n in range(services)))
        self.pilot.apply([], {name: to_workload(mesh.registration(name)) for name in mesh.workload_names(services)})

    def apply(self, text: str) -> None:
        self.pilot.apply([Change(obj.key, obj) for obj in decoded(text)])

    def connect(self, name: str, kind: str, routes: str) -> Proxy:
        node = NodeInfo(id=f"{kind}~10.77.9.9~{name}.default~default.svc.cluster.local")
        proxy = self.pilot.source.connect(node, Identity(None))
        for one in proxy.slices[RDS]:
            one.get(routes)
        return proxy

    def change(self, name: str, texts: list[str]) -> list[Row]:
        """Apply each text in turn; return what one of them costs in the middle."""
        times, recomputed, sizes = [], [], []
        for text in texts:
            objects = [Change(obj.key, obj) for obj in decoded(text)]
            self.sent.bytes = 0
            self.pilot.graph.stats.reset()
            began = time.perf_counter()
            self.pilot.apply(objects)
            times.append(time.perf_counter() - began)
            recomputed.append(sum(self.pilot.graph.stats.recomputed.values()))
            sizes.append(self.sent.bytes)
        if not all(sizes):
            raise AssertionError(f"{name}: a change sent nothing")
        return [
            Row(name, "us", median(times) * 1e6, note="from the decoded resource to the bytes for the proxy"),
            Row(name, "recomputed", median(recomputed)),
            Row(name, "bytes", median(sizes)),
        ]


def decoded(text: str) -> list[Object]:
    found = decode_documents(text.encode(), "bench.yaml")
    errors = [str(problem) for problem in found.problems if problem.level == "error"]
    if errors:
        raise AssertionError(errors)
    return list(found.objects)


def routing_rows(*, quick: bool) -> list[Row]:
    rounds = 5 if quick else 15
    return [*_one_large(rounds), *_many_at_a_gateway(rounds)]


def _one_large(rounds: int) -> list[Row]:
    one = _Mesh(4)
    proxy = one.connect(mesh.workload_names(4)[2], "sidecar", str(mesh.PORT))
    text = many_routes(50)
    began = time.perf_counter()
    objects = decoded(text)
    decode_seconds = time.perf_counter() - began
    before = _memory()
    began = time.perf_counter()
    one.pilot.apply([Change(obj.key, obj) for obj in objects])
    first_seconds = time.perf_counter() - began
    grown = _memory() - before
    name = f"one VirtualService of {ROUTES:,} routes"
    rows = [
        Row(f"{name}: decoded and checked", "us", decode_seconds * 1e6, note=f"{len(text) / 1e3:.0f} kB of YAML"),
        Row(f"{name}: applied first", "us", first_seconds * 1e6),
        Row(f"{name}: memory", "MB", grown / 1e6),
        *one.change(f"{name}: a weight changed", [many_routes(51 + n) for n in range(rounds)]),
    ]
    proxy.close()
    return rows


def _many_at_a_gateway(rounds: int) -> list[Row]:
    one = _Mesh(VIRTUAL_SERVICES)
    gateway = Workload(
        name="edge",
        kind="gateway",
        namespace="default",
        service_account="edge",
        labels={"istio": "ingressgateway"},
        ip="10.77.9.9",
        ports=(("http", 80, 80),),
        ready=True,
    )
    one.pilot.apply([], {"edge": gateway})
    one.apply(GATEWAY)
    proxy = one.connect("edge", "router", "http.80")
    texts = [at_the_edge(number, 1) for number in range(VIRTUAL_SERVICES)]
    before = _memory()
    began = time.perf_counter()
    one.apply("---\n".join(texts))
    first_seconds = time.perf_counter() - began
    grown = _memory() - before
    name = f"{VIRTUAL_SERVICES} VirtualServices on one gateway"
    rows = [
        Row(f"{name}: decoded and applied first", "us", first_seconds * 1e6),
        Row(f"{name}: memory", "MB", grown / 1e6),
        *one.change(f"{name}: one changed", [at_the_edge(100, 2 + n) for n in range(rounds)]),
    ]
    proxy.close()
    return rows


def _memory() -> int:
    gc.collect()
    return rss_bytes()
