"""The control plane in one process, with its files, its sockets and its tasting Envoy; no workload runs."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.errors import BadInput
from lateen.pilot.serving.control_plane import ControlPlane, ControlPlaneOptions
from lateen.pilot.serving.scopes import CDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.xds.source import Identity, NodeInfo
from lateen.settings import Settings
from lateen.wire.local import Query

pytestmark = pytest.mark.envoy

WEB = "outbound|80||web.default.svc.cluster.local"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
"""
# The values are right one by one, so nobody but Envoy sees what is wrong with a cluster of this kind.
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patch}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: web.default.svc.cluster.local}}
    patch: {operation: MERGE, value: %s}
"""
GOOD = FILTER % "{connect_timeout: 3s}"
BAD = FILTER % "{lb_policy: CLUSTER_PROVIDED, connect_timeout: 4s}"


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(state=tmp_path_factory.mktemp("s"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "web.yaml").write_text(SERVICE)
    return tmp_path


@asynccontextmanager
async def control_plane(settings: Settings, config: Path) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(settings, ControlPlaneOptions(config=config, network="explicit")) as plane:
        stop = asyncio.Event()
        serving = asyncio.create_task(plane.serve(stop))
        try:
            yield plane
        finally:
            stop.set()
            await serving


async def joined(plane: ControlPlane) -> MeshProxy:
    node = NodeInfo(id="sidecar~10.0.0.9~caller.default~default.svc.cluster.local")
    proxy = plane.pilot.source.connect(node, Identity(None))
    await plane.pilot.source.settled()
    assert isinstance(proxy, MeshProxy)
    return proxy


def put(config: Path, name: str, text: str) -> None:
    aside = config / f".{name}"
    aside.write_text(text)
    os.replace(aside, config / name)


async def eventually(met: Callable[[], bool], *, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not met():  # noqa: ASYNC110  # files are watched by another thread
            await asyncio.sleep(0.02)


def timeout_of(proxy: MeshProxy) -> int:
    resource = proxy.slices[CDS][0].get(WEB)
    assert resource is not None
    return Cluster.FromString(AnyMessage.FromString(resource.body).value).connect_timeout.seconds


async def test_what_envoy_refuses_is_held_back_told_and_mended(settings: Settings, config: Path) -> None:
    async with control_plane(settings, config) as plane:
        proxy = await joined(plane)
        put(config, "patch.yaml", GOOD)
        await eventually(lambda: timeout_of(proxy) == 3)
        put(config, "patch.yaml", BAD)
        await eventually(lambda: bool(plane.pilot.gate.held))
        assert timeout_of(proxy) == 3

        report = await plane.status(Query())
        (error,) = report.errors
        assert (error.file, error.line) == (str(config / "patch.yaml"), 2)
        assert error.resource == "EnvoyFilter default/patch"
        assert f"envoy would refuse CDS {WEB}: " in error.message
        assert "cluster provided LB specified" in error.message
        assert error.message.endswith("the last good version stays")

        (held,) = (await plane.proxy_status(Query())).quarantined
        assert (held.type, held.resource, held.proxies) == ("CDS", WEB, ("caller",))
        assert held.shaped_by == (f"EnvoyFilter default/patch ({config}/patch.yaml:2)",)
        assert (await plane.proxy_status(Query(workload="another"))).quarantined == ()

        metrics = (await plane.metrics(Query())).text.splitlines()
        assert 'lateen_quarantined_resources{type="cds"} 1' in metrics
        assert 'lateen_configuration_problems{kind="EnvoyFilter",level="error"} 1' in metrics
        assert "lateen_taste_refused_total 1" in metrics
        assert "lateen_untasted_total 0" in metrics
        assert 'lateen_resources{kind="Service"} 1' in metrics

        put(config, "patch.yaml", BAD.replace("lb_policy: CLUSTER_PROVIDED, ", ""))
        await eventually(lambda: not plane.pilot.gate.held)
        assert timeout_of(proxy) == 4
        assert (await plane.status(Query())).errors == ()


async def test_the_last_good_version_outlives_a_restart(settings: Settings, config: Path) -> None:
    put(config, "patch.yaml", GOOD)
    async with control_plane(settings, config) as plane:
        proxy = await joined(plane)
        put(config, "patch.yaml", BAD)
        await eventually(lambda: bool(plane.pilot.gate.held))
        assert timeout_of(proxy) == 3
    assert stat.S_IMODE(settings.tasted_file.stat().st_mode) == 0o600
    async with control_plane(settings, config) as plane:
        assert timeout_of(await joined(plane)) == 3
        assert plane.taster is not None
        assert plane.taster.stats.tasted == 1  # the bad one: what was good is known
        assert len((await plane.status(Query())).errors) == 1
    settings.tasted_file.write_bytes(b"no such thing")
    async with control_plane(settings, config) as plane:
        assert timeout_of(await joined(plane)) == 10  # nothing good is known: the bad patch alone is left out
        (error,) = (await plane.status(Query())).errors
        assert "EnvoyFilter default/patch spec.configPatches[0]" in error.message


async def test_without_an_envoy_everything_is_served_and_told(
    settings: Settings, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Path:
        raise BadInput("no Envoy here")

    monkeypatch.setattr("lateen.pilot.taste.taster.find_envoy", none)
    put(config, "patch.yaml", BAD)
    async with control_plane(settings, config) as plane:
        assert timeout_of(await joined(plane)) == 4
        told = [warning.message for warning in (await plane.status(Query())).warnings]
        assert "resources are served untasted: no Envoy here" in told


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all}
spec: {mtls: {mode: %s}}
"""


async def test_a_restart_opens_nothing_whose_policies_are_being_edited(settings: Settings, config: Path) -> None:
    """Somebody saves half of a file, and the machine is started again: what the file forbade stays forbidden."""
    put(config, "policy.yaml", POLICY % "STRICT")
    async with control_plane(settings, config):
        put(config, "policy.yaml", POLICY % "STRIC")
    put(config, "web.yaml", "")
    async with control_plane(settings, config) as plane:
        kinds = {key.kind for key, _ in plane.pilot.mesh.objects.items()}
        assert kinds == {"AuthorizationPolicy", "PeerAuthentication", "Service"}
        assert plane.pilot.mesh.port_mtls.peek(("default", (), 80)).name == "STRICT"
        told = [(Path(error.file).name, error.line) for error in (await plane.status(Query())).errors]
        assert sorted(told) == [("policy.yaml", 10), ("web.yaml", 1)]
    (config / "policy.yaml").unlink()  # taken away on purpose, if while nobody looked
    async with control_plane(settings, config) as plane:
        assert {key.kind for key, _ in plane.pilot.mesh.objects.items()} == {"Service"}
