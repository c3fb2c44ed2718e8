"""A Pilot on the sample shop, driven without sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from tests.fakes.proxies import ConfigServer

from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.xds.source import Delta, Identity, NodeInfo

SHOP = {
    "productpage-v1": ("productpage", "v1"),
    "details-v1": ("details", "v1"),
    "reviews-v1": ("reviews", "v1"),
    "reviews-v2": ("reviews", "v2"),
    "reviews-v3": ("reviews", "v3"),
    "ratings-v1": ("ratings", "v1"),
}


class Recorder:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.moved: list[object] = []
        self.refused: list[tuple[object, str]] = []

    def on_batch(self, deltas: list[Delta]) -> None:
        self.deltas.extend(deltas)

    def on_scope(self, proxy: object) -> None:
        self.moved.append(proxy)

    def on_refused(self, proxy: object, reason: str) -> None:
        self.refused.append((proxy, reason))

    def take(self) -> dict[str, tuple[list[str], list[str]]]:
        """Return (changed, removed) names by short type, and forget them."""
        found: dict[str, tuple[list[str], list[str]]] = {}
        for delta in self.deltas:
            changed, removed = found.setdefault(delta.slice.type_url.rsplit(".", 1)[1], ([], []))
            changed.extend(resource.name for resource in delta.changed)
            removed.extend(delta.removed)
        self.deltas.clear()
        return found


class Bench:
    """A Pilot, a recorder, and short ways to change and look."""

    def __init__(self) -> None:
        self.pilot = Pilot(trust_domain="cluster.local", vips=VipTable())
        self.recorder = Recorder()
        self.pilot.source.subscribe(self.recorder)
        self.pilot.source.ready = True

    def apply(self, text: str) -> None:
        decoded = decode_documents(text.encode(), "test.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        self.pilot.apply([Change(obj.key, obj) for obj in decoded.objects])

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        keys = [
            key
            for key, _ in self.pilot.mesh.objects.items()
            if (key.kind, key.namespace, key.name) == (kind, namespace, name)
        ]
        assert keys
        self.pilot.apply([Change(key, None) for key in keys])

    def run(self, *workloads: Workload) -> None:
        self.pilot.apply([], {workload.name: workload for workload in workloads})

    def stop(self, name: str) -> None:
        self.pilot.apply([], {name: None})

    def connect(self, name: str, namespace: str = "default", *, kind: str = "sidecar", **metadata: object) -> MeshProxy:
        node = NodeInfo(
            id=f"{kind}~10.77.0.9~{name}.{namespace}~{namespace}.svc.cluster.local",
            metadata={"NAMESPACE": namespace, **metadata},
        )
        proxy = self.pilot.source.connect(node, Identity(None))
        assert isinstance(proxy, MeshProxy)
        return proxy


def make_workload(name: str, service: str, version: str, ip: str, **fields: object) -> Workload:
    values: dict[str, object] = {
        "name": name,
        "namespace": "default",
        "service_account": f"bookinfo-{service}",
        "service": service,
        "labels": {"app": service, "version": version},
        "ip": ip,
        "ports": (("http", 9080, 9080),),
        "ready": True,
    }
    return Workload(**{**values, **fields})  # type: ignore[arg-type]  # the fields are named by the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sockets, so with a short path."""
    return tmp_path_factory.mktemp("e")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ConfigServer]:
    server = ConfigServer(folder / "config.sock")
    yield server
    server.close()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def shop(bench: Bench) -> Bench:
    for path in sorted(files("lateen.demo.shop").joinpath("config").iterdir(), key=lambda path: path.name):
        bench.apply(path.read_text())
    bench.run(*(make_workload(n, s, v, f"10.77.0.{i + 10}") for i, (n, (s, v)) in enumerate(SHOP.items())))
    bench.run(
        make_workload(
            "ingressgateway",
            "",
            "",
            "10.77.0.2",
            kind="gateway",
            service_account="ingressgateway",
            labels={"istio": "ingressgateway", "app": "ingressgateway"},
            ports=(("http", 80, 80),),
        )
    )
    bench.recorder.take()
    return bench


@pytest.fixture
def make() -> Callable[..., Workload]:
    return make_workload
