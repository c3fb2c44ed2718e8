"""A control plane for agents under test: real Citadel, real xDS server, fed by hand; it can go away and come back."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import INBOUND, OUTBOUND
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from tests.fakes.xds import FakeSlice, FakeSource, make_resource

from lateen.citadel.authenticate import LocalTrust
from lateen.citadel.authority import Authority
from lateen.citadel.server_identity import ServerIdentity
from lateen.citadel.service import CertificateService, Lifetimes
from lateen.errors import BadInput, LateenError, Unavailable
from lateen.pilot.translate.pack import resource_of_bytes
from lateen.pilot.xds.node import Trust
from lateen.pilot.xds.server import AdsServer
from lateen.pilot.xds.type_urls import CDS, LDS, NDS, TRUST
from lateen.settings import Settings
from lateen.wire.access import AccessReport
from lateen.wire.control import control_handlers
from lateen.wire.local import (
    Goodbye,
    GroupInfo,
    GroupQuery,
    MetricsReport,
    ProxyReport,
    Query,
    Registered,
    Registration,
    StatusReport,
)
from lateen.wire.nds import NAME_TABLE_TYPE_URL, NameInfo, build_name_table
from lateen.wire.trust import TrustUpdate
from lateen.wire.trust_messages import encode_trust

MESH = Registered(trust_domain="cluster.local", cluster_domain="cluster.local", mesh_id="test", cluster_id="test")


class QuietLog:
    """What the services under test would log, kept."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, _level: str) -> Any:
        return lambda event, **fields: self.lines.append((event, fields))


@dataclass
class FakeMesh:
    """Serves ca.sock and xds.sock of a state folder of its own."""

    lifetime: timedelta = timedelta(hours=1)
    settings: Settings = field(default_factory=lambda: Settings(state=Path(tempfile.mkdtemp(prefix="lt", dir="/tmp"))))
    registrations: list[Registration] = field(default_factory=list)
    goodbyes: list[Goodbye] = field(default_factory=list)
    refusal: LateenError | None = None
    groups: dict[str, GroupInfo] = field(default_factory=dict)
    joined: Registered = MESH  # what agents are told when they register

    def __post_init__(self) -> None:
        self.settings.run.mkdir(mode=0o700, parents=True)
        self.authority = Authority.load_or_create(self.settings.ca_dir, MESH.trust_domain)
        self.clusters, self.listeners = FakeSlice(CDS), FakeSlice(LDS)
        self.names = FakeSlice(NDS, name_table({"ratings.default.svc.cluster.local": ["10.96.0.7"]}))
        self.trust = FakeSlice(TRUST)
        self.source = FakeSource(self.clusters, self.listeners, self.names, self.trust)
        self.servers: list[Any] = []
        self.ads: AdsServer | None = None

    async def start(self) -> None:
        self.ads = AdsServer(self.source)
        self.citadel = CertificateService(
            self.authority,
            [LocalTrust(MESH.trust_domain)],
            lifetimes=Lifetimes.exactly(self.lifetime),
            log=QuietLog(),
        )
        local, secure = grpc.aio.server(), grpc.aio.server()
        local.add_generic_rpc_handlers((self.citadel.handler(), control_handlers(self)))
        self.ads.add_to_server(secure, trust=Trust.MUTUAL_TLS)
        for path in (self.settings.ca_socket, self.settings.xds_socket):
            path.unlink(missing_ok=True)
        local.add_insecure_port(f"unix:{self.settings.ca_socket}")
        identity = ServerIdentity(self.authority, log=QuietLog())
        secure.add_secure_port(f"unix:{self.settings.xds_socket}", identity.credentials())
        self.servers = [local, secure]
        for server in self.servers:
            await server.start()
        self.settings.mesh_file.write_text("{}")

    async def stop(self) -> None:
        if self.ads is not None:
            await self.ads.close(grace_seconds=1.0)
        for server in self.servers:
            await server.stop(0.2)
        self.servers = []

    async def __aenter__(self) -> FakeMesh:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        shutil.rmtree(self.settings.state)

    @property
    def last(self) -> Registration:
        return self.registrations[-1]

    def tell_trust(self, update: TrustUpdate) -> None:
        """Have every agent check peers by a bundle."""
        resource = resource_of_bytes("trust", TRUST.rpartition("/")[2], encode_trust(update))
        self.source.push((self.trust, [resource]))

    # ---- what agents call

    async def register(self, message: Registration) -> Registered:
        if self.refusal is not None:
            raise self.refusal
        self.registrations.append(message)
        return self.joined

    async def deregister(self, message: Goodbye) -> Registered:
        self.goodbyes.append(message)
        return self.joined

    async def metrics(self, _: Query) -> MetricsReport:
        return MetricsReport(text="")

    async def access(self, _: Query) -> AccessReport:
        raise Unavailable("not in tests")

    async def status(self, _: Query) -> StatusReport:
        raise Unavailable("not in tests")

    async def group(self, message: GroupQuery) -> GroupInfo:
        if message.name not in self.groups:
            raise BadInput(f"no WorkloadGroup {message.name!r}")
        return self.groups[message.name]

    async def proxy_status(self, _: Query) -> ProxyReport:
        raise Unavailable("not in tests")

    # ---- what proxies get

    def serve_inbound(self, *, ip: str, port: int, target: int, mtls: bool = False) -> None:
        """Give every proxy a listener on `ip`:`port` that forwards HTTP to 127.0.0.1:`target`."""
        name = f"inbound|{port}||"
        self.source.push((self.clusters, [make_resource(name, http_cluster(name, target))]))
        listener = http_listener(f"{ip}_{port}", ip=ip, port=port, cluster=name, mtls=mtls)
        self.source.push((self.listeners, [make_resource(listener.name, listener)]))


def name_table(hosts: dict[str, list[str]]) -> Any:
    """Build the name table's resource; hosts below svc.cluster.local are Kubernetes'."""
    infos = {}
    for host, ips in hosts.items():
        parts = host.split(".")
        ours = host.endswith(".svc.cluster.local")
        infos[host] = NameInfo(
            ips=ips,
            registry="Kubernetes" if ours else "External",
            shortname=parts[0] if ours else "",
            namespace=parts[1] if ours else "",
        )
    return make_resource("nametable", build_name_table(infos), NAME_TABLE_TYPE_URL)


def http_cluster(name: str, port: int, *, host: str = "127.0.0.1") -> Cluster:
    return ParseDict(
        {
            "name": name,
            "alt_stat_name": f"{name};",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
                        ]
                    }
                ],
            },
        },
        Cluster(),
    )


def http_listener(name: str, *, ip: str, port: int, cluster: str, mtls: bool = False, inbound: bool = True) -> Listener:
    direction = "inbound" if inbound else "outbound"
    manager = ParseDict(
        {
            "stat_prefix": f"{direction}_{name};",
            "route_config": {
                "name": "local",
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
                    }
                ],
            },
        },
        HttpConnectionManager(),
    )
    router = manager.http_filters.add(name="envoy.filters.http.router")
    router.typed_config.Pack(Router())
    listener = Listener(name=name, traffic_direction=INBOUND if inbound else OUTBOUND)
    listener.address.socket_address.address = ip
    listener.address.socket_address.port_value = port
    chain = listener.filter_chains.add()
    chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config.Pack(manager)
    if mtls:
        chain.transport_socket.name = "envoy.transport_sockets.tls"
        chain.transport_socket.typed_config.CopyFrom(_server_tls())
    return listener


def _server_tls() -> AnyMessage:
    def source(name: str) -> dict[str, Any]:
        grpc_services = [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]
        api = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": grpc_services}
        return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": api}}

    context = ParseDict(
        {
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [source("default")],
                "combined_validation_context": {
                    "default_validation_context": {},
                    "validation_context_sds_secret_config": source("ROOTCA"),
                },
            },
        },
        DownstreamTlsContext(),
    )
    packed = AnyMessage()
    packed.Pack(context)
    return packed
