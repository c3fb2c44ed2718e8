"""Name table and trust bundle over delta ADS with the workload's certificate: received, kept, resumed, refused."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.fakes.agent_mesh import MESH, FakeMesh, name_table
from tests.fakes.certs import StrangeAuthority

from lateen.agent.identity import CitadelClient, Identity, Svid
from lateen.agent.nds import MeshClient
from lateen.agent.spec import Place, WorkloadSpec, build_node
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.stream import Stream
from lateen.pilot.xds.type_urls import TRUST
from lateen.wire.nds import NAME_TABLE_TYPE_URL
from lateen.wire.trust import TrustBundle, TrustUpdate

SPEC = WorkloadSpec(name="reviews-v3", service="reviews", version="v3", argv=("app",))


class Following:
    """A client with what it needs, its tables kept."""

    def __init__(self, mesh: FakeMesh, log: Any) -> None:
        self.tables: list[dict[str, list[str]]] = []
        self.connects = 0
        self.updates: list[TrustUpdate] = []
        self.envoy_uses_it = asyncio.Event()
        self.refusal = ""
        self.outdated = False
        self.stands: list[bool] = []
        self.citadel = CitadelClient(mesh.settings.ca_socket, namespace="default", service_account="default")
        self.identity = Identity(
            self.citadel.sign, namespace="default", service_account="default", lifetime=None, log=log
        )
        self.client = MeshClient(
            socket=mesh.settings.xds_socket,
            node=build_node(SPEC, Place(mode="capture", ip="10.77.0.2"), MESH),
            identity=self.identity,
            on_table=lambda table: self.tables.append({host: list(entry.ips) for host, entry in table.items()}),
            trust=self,
            on_connect=self._connected,
            log=log,
        )

    def roots(self, svid: Svid) -> bytes:
        return svid.roots

    def stood(self) -> None:
        self.stands.append(True)

    def lost(self) -> None:
        self.stands.append(False)

    async def take(self, update: TrustUpdate) -> str:
        self.updates.append(update)
        await self.envoy_uses_it.wait()
        return self.refusal

    def _connected(self) -> None:
        self.connects += 1

    async def __aenter__(self) -> Following:
        self.tasks = [asyncio.create_task(self.identity.run()), asyncio.create_task(self.client.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.citadel.close()


async def test_tables_come_and_change(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with Following(mesh, log) as following:
        await until(lambda: following.tables)
        assert following.tables == [{"ratings.default.svc.cluster.local": ["10.96.0.7"]}]
        mesh.source.push((mesh.names, [name_table({"a.example": ["240.240.0.1", "240.240.0.2"]})]))
        await until(lambda: len(following.tables) == 2)
        assert following.tables[1] == {"a.example": ["240.240.0.1", "240.240.0.2"]}
        (proxy,) = mesh.source.proxies
        assert proxy.identity.spiffe_id == "spiffe://cluster.local/ns/default/sa/default"


async def test_nothing_is_sent_again_after_an_absence(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with Following(mesh, log) as following:
        await until(lambda: following.tables)
        await mesh.stop()
        await until(lambda: log.said("control plane away"))
        assert len(following.tables) == 1
        await mesh.start()
        await until(lambda: following.connects == 2)
        mesh.source.push((mesh.names, [name_table({"b.example": ["1.2.3.4"]})]))
        await until(lambda: len(following.tables) == 2)
        assert following.tables[1] == {"b.example": ["1.2.3.4"]}  # the first push of the new stream: no resend before


async def test_a_broken_table_is_refused_and_the_last_one_stays(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with Following(mesh, log) as following:
        await until(lambda: following.tables)
        text = NAME_TABLE_TYPE_URL.encode()
        body = b"\x0a" + bytes([len(text)]) + text + b"\x12\x03\xff\xff\xff"
        mesh.source.push((mesh.names, [Resource("nametable", "broken", body)]))
        await until(lambda: mesh.source.rejections)
        assert mesh.source.rejections[0][1:3] == ("NDS", ("nametable",))
        assert len(following.tables) == 1
        mesh.source.push((mesh.names, [name_table({"c.example": ["1.1.1.1"]})]))
        await until(lambda: len(following.tables) == 2)


async def test_a_bundle_is_acknowledged_once_envoy_uses_it(mesh: FakeMesh, log: Any, until: Any) -> None:
    first = TrustUpdate(TrustBundle.of({"cluster.local": mesh.authority.roots}), mesh.authority.signing_path)
    second = TrustUpdate(first.bundle.with_domain("other.example", [StrangeAuthority().root_pem.decode()]), "path")
    mesh.tell_trust(first)
    async with Following(mesh, log) as following:
        await until(lambda: following.updates and following.tables)
        assert following.updates == [first]
        assert held(mesh) == ""
        mesh.tell_trust(second)
        mesh.source.push((mesh.names, [name_table({"a.example": ["240.240.0.1"]})]))
        await until(lambda: len(following.tables) == 2)  # names do not wait for Envoy
        assert following.updates == [first]  # nor is anything else sent before the first is answered
        following.envoy_uses_it.set()
        await until(lambda: held(mesh) == mesh.trust.all()["trust"].version)
        assert following.updates == [first, second]


async def test_a_bundle_that_envoy_refuses_is_told(mesh: FakeMesh, log: Any, until: Any) -> None:
    mesh.tell_trust(TrustUpdate(TrustBundle.of({"cluster.local": mesh.authority.roots})))
    async with Following(mesh, log) as following:
        following.refusal = "refused by Envoy: no good"
        following.envoy_uses_it.set()
        await until(lambda: mesh.source.rejections)
        assert mesh.source.rejections[0][1:] == ("TRUST", ("trust",), "refused by Envoy: no good")
        assert held(mesh) == ""


async def test_what_is_held_is_proven_again_after_an_absence(mesh: FakeMesh, log: Any, until: Any) -> None:
    mesh.tell_trust(TrustUpdate(TrustBundle.of({"cluster.local": mesh.authority.roots})))
    async with Following(mesh, log) as following:
        following.envoy_uses_it.set()
        await until(lambda: held(mesh))
        await mesh.stop()
        await until(lambda: log.said("control plane away"))
        await mesh.start()
        await until(lambda: following.connects == 2)
        await until(lambda: held(mesh) == mesh.trust.all()["trust"].version)
        assert len(following.updates) == 1  # not sent again


def held(mesh: FakeMesh) -> str:
    """Return the version of the bundle that the one agent is known to use."""
    assert mesh.ads is not None
    streams: list[Stream] = [stream for stream in mesh.ads.hub.streams if TRUST in stream.types]
    return streams[0].held(TRUST).get("trust", "") if streams else ""
