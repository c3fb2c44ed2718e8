"""What a real Envoy makes of it, over ADS on a Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ports import free_port
from tests.fakes.xds import FakeSlice, FakeSource, make_cluster, make_endpoints, make_listener, make_route
from tests.pilot.xds.conftest import Backend, Envoy, backend, eventually, serving

from lateen.pilot.xds import stream as stream_module
from lateen.pilot.xds.server import AdsServer
from lateen.pilot.xds.state import TypeState
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS, short_name

pytestmark = pytest.mark.envoy


@dataclass
class Mesh:
    """One Envoy that serves `port` by route r, to cluster a, to backend one."""

    ads: AdsServer
    envoy: Envoy
    source: FakeSource
    one: Backend
    two: Backend
    port: int
    clusters: FakeSlice
    endpoints: FakeSlice
    listeners: FakeSlice
    routes: FakeSlice
    answers: list[str] = field(default_factory=list)

    async def get(self) -> str:
        """Return status and body of one request through Envoy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return f"{head.split()[1].decode()} {body.decode()}"

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Ask again and again while the block runs, and keep the answers."""
        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                self.answers.append(await self.get())

        load = asyncio.create_task(ask())
        try:
            yield
        finally:
            stop.set()
            await load

    async def synced(self) -> bool:
        infos = self.ads.status()
        return bool(infos) and all(t.state == "SYNCED" for t in infos[0].types.values())

    async def cluster_is(self, name: str, **expected: Any) -> bool:
        for entry in await self.envoy.dump("dynamic_active_clusters"):
            cluster = entry["cluster"]
            if cluster["name"] == name:
                return all(cluster.get(key) == value for key, value in expected.items())
        return False

    def sent(self) -> dict[str, tuple[int, int]]:
        """Return how many resources and removals were sent, by type; zeros are left out."""
        return {
            short_name(t): (s.resources, s.removed)
            for t, s in self.ads.stats.by_type.items()
            if s.resources or s.removed
        }


@pytest.fixture(params=["DELTA_GRPC"])
async def mesh(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(backend(name)) for name in ("one", "two")]
        port = free_port()
        slices = [
            FakeSlice(CDS, make_cluster("a")),
            FakeSlice(EDS, make_endpoints("a", one.port)),
            FakeSlice(LDS, make_listener("in", port=port, route="r")),
            FakeSlice(RDS, make_route("r", "a")),
        ]
        source = FakeSource(*slices)
        ads = AdsServer(source)
        await stack.enter_async_context(serving(ads, f"unix:{folder}/xds.sock"))
        envoy = await stack.enter_async_context(Envoy(folder, folder / "xds.sock", api=request.param))
        mesh = Mesh(ads, envoy, source, one, two, port, *slices)
        await eventually(envoy.live)
        await eventually(mesh.synced)
        yield mesh


async def test_envoy_starts_and_serves(mesh: Mesh) -> None:
    assert await mesh.get() == "200 one"
    assert mesh.sent() == {"CDS": (1, 0), "EDS": (1, 0), "LDS": (1, 0), "RDS": (1, 0)}
    (info,) = mesh.ads.status()
    assert info.version == "1.40.0"


@pytest.mark.parametrize("mesh", ["DELTA_GRPC", "GRPC"], indirect=True)
async def test_a_changed_cluster_acts_at_once_though_its_endpoints_did_not_change(mesh: Mesh) -> None:
    async with mesh.under_load():
        mesh.source.push((mesh.clusters, [make_cluster("a", seconds=7)]))
        # Without its endpoints sent again Envoy would take it up after 15 s, its default `initial_fetch_timeout`.
        await eventually(lambda: mesh.cluster_is("a", connect_timeout="7s"), seconds=5)
        await eventually(mesh.synced)
    assert mesh.answers
    assert set(mesh.answers) == {"200 one"}
    assert mesh.sent() == {"CDS": (2, 0), "EDS": (2, 0), "LDS": (1, 0), "RDS": (1, 0)}
    assert await mesh.envoy.stat("cluster.a.init_fetch_timeout") == 0


async def test_a_changed_listener_acts_at_once_and_needs_no_routes_again(mesh: Mesh) -> None:
    mesh.source.push((mesh.listeners, [make_listener("in", port=mesh.port, route="r", prefix="newer")]))

    async def counted() -> bool:
        return await mesh.get() == "200 one" and await mesh.envoy.stat("http.newer.downstream_rq_2xx") > 0

    await eventually(counted, seconds=5)
    await eventually(mesh.synced)
    assert mesh.sent() == {"CDS": (1, 0), "EDS": (1, 0), "LDS": (2, 0), "RDS": (1, 0)}


async def test_traffic_moves_to_a_new_cluster_and_the_old_one_leaves_without_an_error(mesh: Mesh) -> None:

    async def moved() -> bool:
        return await mesh.get() == "200 two"

    async def alone() -> bool:
        return not await mesh.cluster_is("a")

    async with mesh.under_load():
        mesh.source.push(
            (mesh.routes, [make_route("r", "b")]),
            (mesh.clusters, [make_cluster("b"), "a"]),
            (mesh.endpoints, [make_endpoints("b", mesh.two.port), "a"]),
        )
        await eventually(moved)
        await eventually(alone)
    assert set(mesh.answers) <= {"200 one", "200 two"}


async def test_a_bad_resource_is_named_and_leaves_the_rest_alone(mesh: Mesh) -> None:
    bad = make_cluster("bad", seconds=-5)
    mesh.source.push(
        (mesh.clusters, [make_cluster("a", seconds=9), bad, make_cluster("b")]),
        (mesh.endpoints, [make_endpoints("b", mesh.two.port)]),
        (mesh.routes, [make_route("r", "b")]),
    )

    async def moved() -> bool:
        return await mesh.get() == "200 two"

    await eventually(moved)
    await eventually(lambda: mesh.cluster_is("a", connect_timeout="9s"))
    assert [(proxy, kind, names) for proxy, kind, names, _ in mesh.source.rejections] == [
        ("reviews-v3", "CDS", ("bad",))
    ]
    info = mesh.ads.status()[0].types["CDS"]
    assert (info.state, info.rejected) == ("ERROR", ("bad",))
    assert "duration" in info.error
    # Mended, it is taken.
    mesh.source.push((mesh.clusters, [make_cluster("bad", seconds=5)]))
    await eventually(lambda: mesh.cluster_is("bad"))
    await eventually(mesh.synced)
    assert mesh.source.recoveries == [("reviews-v3", "CDS", ("bad",))]


async def test_a_listener_that_envoy_refuses_leaves_the_old_one(mesh: Mesh) -> None:
    twin = make_listener("twin", port=mesh.port, route="r")  # the address is taken
    other = make_listener("other", port=free_port(), route="r")
    mesh.source.push((mesh.listeners, [twin, other]))

    async def told() -> bool:
        return bool(mesh.source.rejections)

    await eventually(told)
    assert [names for _, _, names, _ in mesh.source.rejections] == [("twin",)]
    assert await mesh.get() == "200 one"
    names = {entry["name"] for entry in await mesh.envoy.dump("dynamic_listeners")}
    assert "other" in names


async def test_what_does_not_exist_holds_nothing_up(mesh: Mesh) -> None:
    other = free_port()
    mesh.source.push(
        (mesh.clusters, [make_cluster("ghost")]),
        (mesh.listeners, [make_listener("other", port=other, route="nowhere")]),
    )
    await eventually(lambda: mesh.cluster_is("ghost"), seconds=5)
    mesh.port, home = other, mesh.port

    async def not_found() -> bool:
        try:
            return (await mesh.get()).startswith("404")
        except ConnectionError:
            return False

    await eventually(not_found, seconds=5)
    mesh.source.push((mesh.routes, [make_route("nowhere", "a")]))

    async def served() -> bool:
        return await mesh.get() == "200 one"

    await eventually(served, seconds=5)
    mesh.port = home
    assert await served()


async def test_a_new_control_plane_sends_nothing_again(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(backend("one"))
        slices = [
            FakeSlice(CDS, make_cluster("a")),
            FakeSlice(EDS, make_endpoints("a", one.port)),
            FakeSlice(LDS, make_listener("in", port=free_port(), route="r")),
            FakeSlice(RDS, make_route("r", "a")),
        ]
        source = FakeSource(*slices)
        address = f"unix:{folder}/xds.sock"
        first = AdsServer(source)
        async with serving(first, address):
            envoy = await stack.enter_async_context(Envoy(folder, folder / "xds.sock"))
            await eventually(envoy.live)
        source._listeners.clear()
        second = AdsServer(source)
        async with serving(second, address):

            async def back() -> bool:
                return bool(second.status()) and set(second.status()[0].types) >= {"CDS", "EDS", "LDS", "RDS"}

            async def synced() -> bool:
                return await back() and all(t.state == "SYNCED" for t in second.status()[0].types.values())

            await eventually(synced)
            assert second.stats.resources == 0
            source.push((slices[0], [make_cluster("a", seconds=8)]))

            async def newer() -> bool:
                active = await envoy.dump("dynamic_active_clusters")
                return json.dumps(active).count('"8s"') == 1

            await eventually(newer, seconds=5)


async def test_endpoints_reach_a_warming_cluster_from_the_next_control_plane(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one dies after it has sent a cluster and before it sends the endpoints."""

    def never(state: TypeState, *_: object) -> TypeState:
        return state

    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(backend("one"))
        slices = [FakeSlice(CDS, make_cluster("a")), FakeSlice(EDS, make_endpoints("a", one.port))]
        source = FakeSource(*slices)
        address = f"unix:{folder}/xds.sock"
        first = AdsServer(source)
        async with serving(first, address):
            envoy = await stack.enter_async_context(Envoy(folder, folder / "xds.sock"))
            await eventually(envoy.live)
            monkeypatch.setattr(stream_module, "on_forgotten", never)
            source.push((slices[0], [make_cluster("a", seconds=8)]))

            async def warming() -> bool:
                return await envoy.stat("cluster_manager.warming_clusters") == 1

            await eventually(warming)
        monkeypatch.undo()
        source._listeners.clear()
        second = AdsServer(source)
        async with serving(second, address):

            async def active() -> bool:
                return '"8s"' in json.dumps(await envoy.dump("dynamic_active_clusters"))

            await eventually(active, seconds=8)
            assert second.stats.of(EDS).resources == 1
            assert second.stats.of(CDS).resources == 0
            assert await envoy.stat("cluster.a.init_fetch_timeout") == 0
